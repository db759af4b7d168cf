"""Planners, by simulation: pure functions on plain values."""

import pytest

from ttl.errors import ParamsError
from ttl.models.cuts import Cut
from ttl.params import PLANNERS, SweepParams
from ttl.search.plan import Known, follow
from ttl.search.planners import exhaustive, find_planner, two_stage
from ttl.search.space import Space
from ttl.training.recipe import RECIPES
from ttl.training.trial import Step

STAGES = ("s0", "s1", "s2", "s3")
BLOCKS = tuple(f"{stage}.{block}" for stage in STAGES for block in range(3))


def make_space(**changes):
    values = {
        "datasets": {"d": "r"},
        "backbones": ("net",),
        "sources": ("imagenet",),
        "weights": {("net", "imagenet"): "0" * 64},
        "strategies": ("ftl", "ttl", "lwft", "tf"),
        "granularity": "stage",
        "seeds": (0, 1),
        "recipes": (RECIPES["fast"],),
        "image_size": 32,
        "processes": 1,
        "cuts": {
            ("net", granularity): tuple(
                Cut(name=name, index=i, granularity=granularity, channels=1, whole=name == "s3")
                for i, name in enumerate(names)
            )
            for granularity, names in (("stage", STAGES), ("block", BLOCKS))
        },
    }
    return Space(**{**values, **changes})


def simulate(planner, space, score, failing=()):
    """Return the rounds of trials that a planner asks for, each step done as it asks."""
    done, rounds = {}, []
    while waiting := follow(planner, space, lambda trial: done.get(trial.trial_id)).waiting:
        rounds.append([step.trial for step in waiting])
        for step in waiting:
            assert step.trial.trial_id not in done, "a trial was planned twice"
            value = score(step.trial)
            done[step.trial.trial_id] = (
                Known(status="failed")
                if step.trial.cut in failing
                else Known(status="completed", best=value, curve=(value,) * step.length)
            )
    progress = follow(planner, space, lambda trial: done.get(trial.trial_id))
    assert list(progress.trials) == [trial.trial_id for trials in rounds for trial in trials]
    return rounds


def test_exhaustive_runs_every_cut_that_makes_a_network_of_its_own():
    (trials,) = simulate(exhaustive, make_space(), lambda trial: 0.9)
    cuts = {(t.strategy, t.cut) for t in trials}
    expected = {("ftl", "full")} | {("lwft", cut) for cut in STAGES}
    expected |= {(strategy, cut) for strategy in ("ttl", "tf") for cut in STAGES[:-1]}
    assert cuts == expected
    assert len(trials) == 2 * len(expected)


def test_a_planner_is_asked_again_before_all_its_steps_are_done():
    """Here it asks for a trial of the second seed as soon as that of the first is done."""
    space = make_space(strategies=("ftl", "ttl"))
    first, second = ([t for s in space.series() for t in s.trials("stage") if t.seed == n] for n in (0, 1))

    def chained(_, known):
        return [
            Step(trial=after if before.trial_id in known else before)
            for before, after in zip(first, second, strict=True)
            if after.trial_id not in known
        ]

    done = {first[0].trial_id: Known(status="completed", best=0.9, curve=(0.9,) * RECIPES["fast"].epochs)}
    progress = follow(chained, space, lambda trial: done.get(trial.trial_id))
    assert [step.trial for step in progress.waiting] == [second[0], *first[1:]]
    assert set(progress.known) == {first[0].trial_id}


def test_what_a_planner_does_without_before_it_was_begun_is_no_trial_of_the_sweep():
    """Here the first trial's end makes the others needless, and one of them was being trained meanwhile."""
    space = make_space(strategies=("ftl", "ttl"))
    first, begun, *others = [trial for series in space.series() for trial in series.trials("stage")]

    def hasty(_, known):
        return [] if first.trial_id in known else [Step(trial=one) for one in (first, begun, *others)]

    end = Known(status="completed", best=0.9, curve=(0.9,) * RECIPES["fast"].epochs)
    done = {first.trial_id: end, begun.trial_id: end}
    progress = follow(hasty, space, lambda trial: done.get(trial.trial_id))
    assert progress.waiting == []
    assert progress.trials == {first.trial_id: first, begun.trial_id: begun}
    assert set(progress.known) == set(progress.trials)


def test_what_is_known_is_not_planned_again():
    space = make_space()
    every = exhaustive(space, {})
    known = {step.trial.trial_id: Known(status="completed", best=0.9) for step in every[:5]}
    assert exhaustive(space, known) == every[5:]


def test_two_stage_looks_at_the_blocks_between_the_neighbours_of_the_best():
    scores = {"s0": 0.7, "s1": 0.9, "s2": 0.8, "s3": 0.6, "full": 0.85}
    space = make_space(strategies=("ftl", "ttl"), seeds=(0,))
    coarse, fine = simulate(two_stage, space, lambda trial: scores.get(trial.cut, 0.5))
    assert [t.cut for t in coarse] == ["full", "s0", "s1", "s2"]
    # s1's own end (s1.2) and its neighbours' (s0.2, s2.2) are the stage cuts again.
    assert [t.cut for t in fine] == ["s1.0", "s1.1", "s2.0", "s2.1"]
    assert {t.granularity for t in fine} == {"block"}


def test_two_stage_at_the_ends_of_the_network():
    space = make_space(strategies=("lwft",), seeds=(0,))
    assert [t.cut for t in simulate(two_stage, space, lambda t: t.cut == "s0")[1]] == [
        "s0.0",
        "s0.1",
        "s1.0",
        "s1.1",
    ]
    last = simulate(two_stage, space, lambda t: t.cut == "s3")[1]
    assert [t.cut for t in last] == ["s3.0", "s3.1"]


def test_two_stage_prefers_the_smaller_of_equals_and_ignores_failures():
    space = make_space(strategies=("ttl",), seeds=(0,))
    assert simulate(two_stage, space, lambda _: 0.9)[1][0].cut == "s0.0"
    assert simulate(two_stage, space, lambda _: 0.9, failing=("s0",))[1][0].cut == "s1.0"
    assert len(simulate(two_stage, space, lambda _: 0.9, failing=STAGES)) == 1


def test_two_stage_gives_both_cuts_of_every_strategy_in_every_condition():
    """The headline table's -1 and -2, whatever the ablation: each condition has a search of its own."""
    best = {"pooled": "s1", "flattened": "s2"}
    space = make_space(heads=("pooled", "flattened"), shares=(0.5, 1.0))
    coarse, fine = simulate(two_stage, space, lambda t: 0.9 if t.cut == best[t.head] else 0.5)
    keys = {(t.strategy, t.head, t.share) for t in coarse if t.strategy != "ftl"}
    assert len(keys) == 3 * 2 * 2
    assert {(t.strategy, t.head, t.share) for t in fine} == keys
    near = {"pooled": {"s1.0", "s1.1", "s2.0", "s2.1"}, "flattened": {"s2.0", "s2.1", "s3.0", "s3.1"}}
    for strategy, head, share in keys:
        mine = [t for t in fine if (t.strategy, t.head, t.share) == (strategy, head, share)]
        assert {t.cut for t in mine} == near[head]
        assert {t.seed for t in mine} == {0, 1}


def test_a_cut_that_lost_a_seed_is_not_the_best_of_its_stage():
    space = make_space(strategies=("ttl",))
    done = {}
    for trial in next(iter(space.series())).trials("stage"):
        lost = trial.cut == "s0" and trial.seed == 1
        value = 0.9 if trial.cut == "s0" else 0.8 if trial.cut == "s2" else 0.5
        done[trial.trial_id] = Known(status="failed") if lost else Known(status="completed", best=value)
    assert {step.trial.cut for step in two_stage(space, done)} == {"s2.0", "s2.1", "s3.0", "s3.1"}


def test_an_ablation_is_a_factor_of_the_grid_and_the_default_is_not():
    plain = exhaustive(make_space(), {})
    wide = exhaustive(make_space(heads=("pooled", "flattened"), shares=(0.1, 1.0)), {})
    assert len(wide) == 4 * len(plain)
    assert {step.trial.trial_id for step in plain} < {step.trial.trial_id for step in wide}


def test_what_has_not_been_trained_is_waited_for():
    space = make_space()
    assert len(follow(exhaustive, space, lambda _: None).waiting) == len(exhaustive(space, {}))


def test_a_planner_is_found_by_each_name_that_params_may_have_and_no_other():
    assert len({find_planner(name, None) for name in PLANNERS}) == len(PLANNERS)
    with pytest.raises(ParamsError, match=r"sweep.planner is 'magic'; .*: exhaustive, two-stage, race"):
        SweepParams(planner="magic")

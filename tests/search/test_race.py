"""The planner `race`, by simulation on recorded learning curves."""

import dataclasses
from functools import partial

import pytest

from ttl.errors import SearchError
from ttl.evaluation.statistics import Interval
from ttl.models.cuts import Cut
from ttl.search.ledger import ledger
from ttl.search.plan import Judge, Known, Progress, follow
from ttl.search.race import BLIND, race, verdicts
from ttl.search.results import collect
from ttl.search.rule import SelectionRule
from ttl.search.space import Space
from ttl.training.recipe import RECIPES
from ttl.training.runs import Runs

CURVES = {
    "blocks.0.0": (0.776, 0.898, 0.920, 0.936, 0.944, 0.946),
    "blocks.1.1": (0.952, 0.962, 0.967, 0.970, 0.973, 0.974),
    "blocks.2.0": (0.975, 0.984, 0.986, 0.988, 0.990, 0.990),
    "blocks.2.1": (0.986, 0.994, 0.995, 0.996, 0.997, 0.997),
    "blocks.3.2": (0.985, 0.996, 0.996, 0.997, 0.998, 0.998),
    "blocks.4.2": (0.990, 0.992, 0.995, 0.997, 0.998, 0.998),
    "blocks.5.3": (0.992, 0.991, 0.994, 0.995, 0.996, 0.996),
    "full": (0.974, 0.992, 0.994, 0.995, 0.996, 0.996),
}
"""EfficientNet-Lite0 on PneumoniaMNIST, one seed: epochs 1, 2 and 6 as recorded, the others between them."""

CUTS = tuple(cut for cut in CURVES if cut != "full")
EPOCHS = RECIPES["fast"].epochs


def make_space(**changes):
    cuts = tuple(Cut(name=name, index=i, granularity="block", channels=1) for i, name in enumerate(CUTS))
    values = {
        "datasets": {"d": "r"},
        "backbones": ("net",),
        "sources": ("imagenet",),
        "weights": {("net", "imagenet"): "0" * 64},
        "strategies": ("ftl", "ttl", "lwft", "tf"),
        "granularity": "block",
        "seeds": (0, 1, 2),
        "recipes": (RECIPES["fast"],),
        "image_size": 32,
        "processes": 1,
        "cuts": {("net", "block"): cuts, ("net", "stage"): cuts},
    }
    return Space(**{**values, **changes})


def size(series, cut):
    low = 1.0 if cut is None else (cut.index + 1) / (len(CUTS) + 1)
    return {"ttl": low, "tf": low + (1 - low) / 4}.get(series.strategy, 1.0)


class World:
    """What training would bring: a curve for each trial, and the interval of each difference."""

    def __init__(self, curves, *, half=0.005, shift=0.0, margin=0.01, provable=True):
        self.curves, self.half, self.shift = curves, half, shift
        self.judge = Judge(
            rule=SelectionRule(margin=margin),
            provable=lambda _: provable,
            difference=self.difference,
            size=size,
        )
        self.planner = partial(race, judge=self.judge)
        self.done = {}

    def curve(self, trial):
        return tuple(value + self.shift * trial.seed for value in self.curves[trial.cut])

    def difference(self, ones, references):
        means = [sum(max(self.curve(trial)) for trial in some) / len(some) for some in (ones, references)]
        gap = means[0] - means[1]
        return Interval(value=gap, low=gap - self.half, high=gap + self.half)

    def find(self, trial):
        return self.done.get(trial.trial_id)

    def run(self, space, failing=()):
        """Train what the planner asks for to its end; return the epochs spent on each (strategy, cut)."""
        spent = {}
        while waiting := follow(self.planner, space, self.find).waiting:
            for step in waiting:
                trial, before = step.trial, self.find(step.trial)
                had = len(before.curve) if before else 0
                assert step.length > had, "a step must bring the trial further"
                key = (trial.strategy, trial.cut)
                spent[key] = spent.get(key, 0) + step.length - had
                curve = self.curve(trial)[: step.length]
                status = "completed" if step.length == EPOCHS else "stopped"
                self.done[trial.trial_id] = (
                    Known(status="failed")
                    if trial.cut in failing
                    else Known(status=status, best=max(curve), curve=curve)
                )
        return spent

    def decisions(self, space):
        progress = follow(self.planner, space, self.find)
        return {
            (one.model.series.strategy, one.model.trials[0].cut): one
            for one in verdicts(space, "d", progress.known, self.judge)
        }


def test_the_smallest_model_that_passes_is_found_and_nothing_larger_is_finished():
    world, space = World(CURVES), make_space()
    spent = world.run(space)
    decisions = world.decisions(space)
    # 0.990 − 0.996 − 0.005 is under the margin, 0.997 − 0.996 − 0.005 is not.
    assert decisions["ttl", "blocks.2.0"].decision == "inferior"
    assert decisions["ttl", "blocks.2.1"].decision == "selected"
    assert spent["ftl", "full"] == spent["ttl", "blocks.2.1"] == 3 * EPOCHS
    # Hopeless after two epochs of one seed, and after one seed.
    assert spent["ttl", "blocks.0.0"] == 2
    assert "after epoch 2 of its first seed: validation AUROC 0.8980" in decisions["ttl", "blocks.0.0"].reason
    larger = [key for key, one in decisions.items() if one.decision == "larger"]
    assert len(larger) == 3 + 5 + 7
    begun = [key for key in larger if key in spent]
    assert len(begun) < BLIND, "models that cannot be chosen were begun"
    assert {spent[key] for key in begun} == {2}, "and were trained on when a smaller one had passed"
    assert decisions[larger[0]].reason == "larger than ttl at blocks.2.1, which is non-inferior"
    assert not any(strategy == "lwft" for strategy, _ in spent)
    assert sum(spent.values()) < 0.2 * (1 + 3 * len(CUTS)) * 3 * EPOCHS


def test_the_answer_is_that_of_training_everything():
    """Whatever the curves, the model found is the smallest of those that would pass."""
    for lift in (-0.02, -0.008, 0.0, 0.004):
        curves = {
            cut: tuple(value + (lift if cut == "full" else 0.0) for value in curve)
            for cut, curve in CURVES.items()
        }
        world, space = World(curves), make_space(strategies=("ftl", "ttl"))
        world.run(space)
        found = [cut for (_, cut), one in world.decisions(space).items() if one.decision == "selected"]
        bar = max(curves["full"]) - 0.01
        expected = [cut for cut in CUTS if max(curves[cut]) - 0.005 > bar]
        assert found == expected[:1]


def test_without_a_smaller_model_that_passes_every_one_has_its_reason():
    curves = {cut: tuple(0.9 * v for v in curve) if cut != "full" else curve for cut, curve in CURVES.items()}
    world, space = World(curves), make_space(strategies=("ftl", "ttl"))
    spent = world.run(space)
    decisions = world.decisions(space)
    assert {one.decision for key, one in decisions.items() if key[0] == "ttl"} == {"inferior"}
    assert all(spent["ttl", cut] == 2 for cut in CUTS)
    book = ledger(space, follow(world.planner, space, world.find), world.find, {})
    assert book.filter(strategy="ttl")["trained"].unique().to_list() == ["in part"]
    assert book["epochs"].sum() == sum(spent.values())


def test_what_others_have_trained_does_not_change_a_decision():
    alone, space = World(CURVES), make_space()
    alone.run(space)
    after = World(CURVES)
    for series in space.series():
        for trial in series.trials("block"):
            curve = after.curve(trial)
            after.done[trial.trial_id] = Known(status="completed", best=max(curve), curve=curve)
    first, second = (follow(world.planner, space, world.find) for world in (alone, after))
    assert first.known == second.known
    assert list(first.trials) == list(second.trials)
    assert not second.waiting
    # The ledger tells of it, beside the planner's own reason.
    row = ledger(space, second, after.find, {}).filter(strategy="ttl", cut="blocks.0.0").to_dicts()[0]
    assert (row["trained"], row["epochs"]) == ("to the end", 3 * EPOCHS)
    assert row["reason"] == f"(trained beyond that, unasked: {3 * EPOCHS - 2} epochs)"
    row = ledger(space, first, alone.find, {}).filter(strategy="ttl", cut="blocks.0.0").to_dicts()[0]
    assert (row["trained"], row["epochs"], row["reason"]) == ("in part", 2, "")


@pytest.mark.parametrize(
    ("level", "shift", "seeds"),
    [
        # The interval's half width is 0.005 whatever is compared; the margin is 0.01.
        (0.972, 0.0, 1),  # −0.013 from the whole network, and no seed differs from another
        (0.976, 0.004, 1),  # −0.013, and whole networks' seeds lie 0.008 apart: −0.0106 is possible
        (0.983, 0.004, 3),  # −0.006 at first, −0.002 in the end
    ],
)
def test_a_model_is_given_up_when_its_other_seeds_could_not_save_it(level, shift, seeds):
    space = make_space(strategies=("ftl", "ttl"))
    curves = {**dict.fromkeys(CUTS, (level,) * EPOCHS), "full": (0.985,) * EPOCHS}
    world = World(curves, shift=shift)
    assert world.run(space)["ttl", CUTS[0]] == seeds * EPOCHS
    decision = world.decisions(space)["ttl", CUTS[0]]
    assert decision.decision == ("selected" if seeds == 3 else "inferior")
    assert seeds == 3 or "after 1 of 3 seeds" in decision.reason


def test_while_whole_networks_train_nothing_is_given_up_and_the_likely_go_on():
    """Two of three seeds make a provisional bar."""
    space = make_space(strategies=("ftl", "ttl"))
    world = World(CURVES)
    first = {(step.trial.strategy, step.trial.cut): step.trial for step in world.planner(space, {})}
    wholes = [step.trial for step in world.planner(space, {}) if step.trial.strategy == "ftl"]
    known = {}
    for trial in wholes[:2]:
        curve = world.curve(trial)
        known[trial.trial_id] = Known(status="completed", best=max(curve), curve=curve)
    for name in ("blocks.0.0", "blocks.2.1"):
        trial = first["ttl", name]
        curve = world.curve(trial)[:2]
        known[trial.trial_id] = Known(status="stopped", best=max(curve), curve=curve)
    found = {one.model.trials[0].cut: one for one in verdicts(space, "d", known, world.judge)}
    assert {one.decision for one in found.values()} == {"waiting"}
    assert found["blocks.0.0"].steps == ()
    assert [step.epochs for step in found["blocks.2.1"].steps] == [None]
    assert [step.trial.seed for step in found["full"].steps] == [2]


def test_conditions_are_raced_apart_and_repeated_splits_not_at_all():
    """With half of the data the whole network is worse: what is non-inferior there is so only there."""

    class Two(World):
        def curve(self, trial):
            lower = 0.02 if trial.share < 1 and trial.cut == "full" else 0.0
            return tuple(value - lower for value in self.curves[trial.cut])

    world, space = Two(CURVES), make_space(strategies=("ftl", "ttl"), shares=(1.0, 0.5))
    world.run(space)
    progress = follow(world.planner, space, world.find)
    chosen = {
        one.model.trials[0].share: one.model.trials[0].cut
        for one in verdicts(space, "d", progress.known, world.judge)
        if one.decision == "selected"
    }
    # 0.974 − 0.976 − 0.005 is above the margin, and 0.974 − 0.996 − 0.005 is not.
    assert chosen == {1.0: "blocks.2.1", 0.5: "blocks.1.1"}
    with pytest.raises(SearchError, match="take the planner exhaustive or two-stage"):
        world.planner(make_space(resplit="val"), {})


def test_a_failed_seed_is_out_and_the_next_model_is_tried():
    world, space = World(CURVES), make_space(strategies=("ftl", "ttl"))
    world.run(space, failing=("blocks.2.1",))
    decisions = world.decisions(space)
    assert decisions["ttl", "blocks.2.1"].decision == "failed"
    assert decisions["ttl", "blocks.3.2"].decision == "selected"


@pytest.mark.parametrize(
    ("options", "failing", "words"),
    [
        ({"provable": False}, (), "10 validation patients of each class"),
        ({}, ("full",), "no whole network was completed"),
    ],
)
def test_where_nothing_could_be_selected_nothing_more_is_trained(options, failing, words):
    world, space = World(CURVES, **options), make_space(strategies=("ftl", "ttl"))
    spent = world.run(space, failing=failing)
    assert spent["ftl", "full"] == 3 * EPOCHS
    assert sum(spent.values()) <= 3 * EPOCHS + BLIND * 2
    others = [one for key, one in world.decisions(space).items() if key[0] == "ttl"]
    assert {one.decision for one in others} == {"unprovable"}
    assert words in others[0].reason


def test_a_race_needs_whole_networks():
    with pytest.raises(SearchError, match="add the strategy ftl"):
        World(CURVES).run(make_space(strategies=("ttl",)))


def test_a_step_shows_what_it_would_have_brought():
    (trial, *_) = next(iter(make_space().series())).trials("block")
    known = Known(status="completed", best=0.9, curve=(0.7, 0.8, 0.9, 0.85))
    early = dataclasses.replace(trial, recipe=dataclasses.replace(trial.recipe, schedule="plateau"))
    step = type(follow(World(CURVES).planner, make_space(), lambda _: None).waiting[0])
    assert known.at(step(trial=early)) == known  # its schedule ended it before the recipe's last epoch
    shown = known.at(step(trial=trial, epochs=2))
    assert (shown.status, shown.best, shown.curve) == ("stopped", 0.8, (0.7, 0.8))
    assert shown.at(step(trial=trial, epochs=3)) is None
    assert Known(status="failed").at(step(trial=trial)).status == "failed"


def test_the_table_says_what_the_planner_asked_for_though_another_sweep_trained_on(tmp_path):
    space = make_space(strategies=("ftl", "ttl"), seeds=(0,))
    trial = next(trial for series in space.series() for trial in series.trials("block"))
    runs = Runs(tmp_path)
    runs.work(trial.trial_id)
    costs = {"params": 1, "macs": 1, "model_bytes": 4, "latency_ms": 1.0, "train_seconds": 9.0}
    runs.publish(trial, {"status": "completed", "epochs": 6, "val_auroc": 0.9, "device": "cpu", **costs})
    stopped = Known(status="stopped", best=0.8, curve=(0.7, 0.8))
    progress = Progress(trials={trial.trial_id: trial}, known={trial.trial_id: stopped}, waiting=())
    (row,) = collect(progress, runs).to_dicts()
    found = {name: row[name] for name in ("status", "epochs", "val_auroc", "test_auroc", "params")}
    assert found == {"status": "stopped", "epochs": 2, "val_auroc": 0.8, "test_auroc": None, "params": 1}

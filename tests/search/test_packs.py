"""Sharing trials out into packs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttl.search.packs import LARGEST, pack
from ttl.training.recipe import RECIPES
from ttl.training.trial import Step, Trial


def step(seed: int, dataset: str = "phantom", processes: int = 1) -> Step:
    trial = Trial(
        dataset=dataset,
        revision="r",
        backbone="resnet18",
        strategy="ftl",
        recipe=RECIPES["fast"],
        image_size=32,
        seed=seed,
        processes=processes,
    )
    return Step(trial=trial)


def loads(packs: list[list[Step]], weights: dict[str, float]) -> list[float]:
    return [sum(weights[t.trial.trial_id] for t in one) for one in packs]


def makespan(packs: list[list[Step]], weights: dict[str, float], slots: int) -> float:
    """Return when the last slot ends, if each takes the next pack when it is free."""
    ends = [0.0] * slots
    for load in loads(packs, weights):
        ends[ends.index(min(ends))] += load
    return max(ends)


def test_heaviest_first_and_half_of_a_slots_share_each_time() -> None:
    steps = [step(seed) for seed in range(7)]
    weights = {t.trial.trial_id: w for t, w in zip(steps, [1, 1, 4, 1, 1, 4, 4], strict=True)}
    packs = pack(steps, weights, 1)
    assert loads(packs, weights) == [8, 4, 2, 1, 1]
    assert loads(pack(steps, weights, 2), weights) == [4, 4, 4, 1, 1, 1, 1]


def test_datasets_and_process_counts_are_not_mixed() -> None:
    steps = [step(s, d, p) for s in range(4) for d in ("a", "b") for p in (1, 2)]
    packs = pack(steps, {t.trial.trial_id: 1.0 for t in steps}, 2)
    assert sum(map(len, packs)) == 16
    assert all(len({(t.trial.dataset, t.trial.processes) for t in one}) == 1 for one in packs)


def test_nothing_gives_no_packs() -> None:
    assert pack([], {}, 3) == []


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_packs_have_a_largest_size(weight: float) -> None:
    steps = [step(seed) for seed in range(150)]
    packs = pack(steps, {t.trial.trial_id: weight for t in steps}, 1)
    assert sum(map(len, packs)) == 150
    assert max(len(one) for one in packs) <= LARGEST


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200), st.integers(1, 9))
def test_every_trial_is_in_one_pack_and_the_work_is_near_even(values: list[float], slots: int) -> None:
    steps = [step(seed) for seed in range(len(values))]
    weights = {t.trial.trial_id: value for t, value in zip(steps, values, strict=True)}
    packs = pack(steps, weights, slots)
    assert sorted(t.trial.seed for one in packs for t in one) == list(range(len(values)))
    assert makespan(packs, weights, slots) <= sum(values) / slots + max(values) + 1e-9

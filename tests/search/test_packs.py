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


def test_work_is_balanced_and_heaviest_first() -> None:
    steps = [step(seed) for seed in range(5)]
    weights = {t.trial.trial_id: w for t, w in zip(steps, [3, 3, 2, 2, 2], strict=True)}
    packs = pack(steps, weights, 2)
    assert loads(packs, weights) == [7, 5]  # LPT's known result; the best would be 6 and 6
    assert [weights[t.trial.trial_id] for t in packs[0]] == [3, 2, 2]


def test_one_slot_gets_one_pack() -> None:
    steps = [step(seed) for seed in range(10)]
    packs = pack(steps, {t.trial.trial_id: 1.0 for t in steps}, 1)
    assert [len(one) for one in packs] == [10]


def test_datasets_and_process_counts_are_not_mixed() -> None:
    steps = [step(s, d, p) for s in range(4) for d in ("a", "b") for p in (1, 2)]
    packs = pack(steps, {t.trial.trial_id: 1.0 for t in steps}, 2)
    assert len(packs) == 4
    assert all(len({(t.trial.dataset, t.trial.processes) for t in one}) == 1 for one in packs)


def test_a_large_dataset_gets_most_of_the_slots() -> None:
    steps = [step(s, "large") for s in range(12)] + [step(0, "small")]
    packs = pack(steps, {t.trial.trial_id: 1.0 for t in steps}, 4)
    assert sorted(len(one) for one in packs) == [1, 3, 3, 3, 3]


def test_nothing_gives_no_packs() -> None:
    assert pack([], {}, 3) == []


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_packs_have_a_largest_size(weight: float) -> None:
    steps = [step(seed) for seed in range(150)]
    packs = pack(steps, {t.trial.trial_id: weight for t in steps}, 1)
    assert len(packs) == 3
    assert max(len(one) for one in packs) <= LARGEST


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200), st.integers(1, 9))
def test_every_trial_is_in_one_pack_and_the_work_is_near_even(values: list[float], slots: int) -> None:
    steps = [step(seed) for seed in range(len(values))]
    weights = {t.trial.trial_id: value for t, value in zip(steps, values, strict=True)}
    packs = pack(steps, weights, slots)
    assert sorted(t.trial.seed for one in packs for t in one) == list(range(len(values)))
    if len(steps) <= LARGEST:
        assert max(loads(packs, weights)) <= sum(values) / slots + max(values) + 1e-9
        assert len(packs) <= slots

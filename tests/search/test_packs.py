"""Sharing trials out into packs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttl.search.packs import LARGEST, pack
from ttl.training.recipe import RECIPES
from ttl.training.trial import Trial


def trial(seed: int, dataset: str = "phantom", processes: int = 1) -> Trial:
    return Trial(
        dataset=dataset,
        revision="r",
        backbone="resnet18",
        strategy="ftl",
        recipe=RECIPES["fast"],
        image_size=32,
        seed=seed,
        processes=processes,
    )


def loads(packs: list[list[Trial]], weights: dict[str, float]) -> list[float]:
    return [sum(weights[t.trial_id] for t in one) for one in packs]


def test_work_is_balanced_and_heaviest_first() -> None:
    trials = [trial(seed) for seed in range(5)]
    weights = {t.trial_id: w for t, w in zip(trials, [3, 3, 2, 2, 2], strict=True)}
    packs = pack(trials, weights, 2)
    assert loads(packs, weights) == [7, 5]  # LPT's known result; the best would be 6 and 6
    assert [weights[t.trial_id] for t in packs[0]] == [3, 2, 2]


def test_one_slot_gets_one_pack() -> None:
    trials = [trial(seed) for seed in range(10)]
    packs = pack(trials, {t.trial_id: 1.0 for t in trials}, 1)
    assert [len(one) for one in packs] == [10]


def test_datasets_and_process_counts_are_not_mixed() -> None:
    trials = [trial(s, d, p) for s in range(4) for d in ("a", "b") for p in (1, 2)]
    packs = pack(trials, {t.trial_id: 1.0 for t in trials}, 2)
    assert len(packs) == 4
    assert all(len({(t.dataset, t.processes) for t in one}) == 1 for one in packs)


def test_a_large_dataset_gets_most_of_the_slots() -> None:
    trials = [trial(s, "large") for s in range(12)] + [trial(0, "small")]
    packs = pack(trials, {t.trial_id: 1.0 for t in trials}, 4)
    assert sorted(len(one) for one in packs) == [1, 3, 3, 3, 3]


def test_nothing_gives_no_packs() -> None:
    assert pack([], {}, 3) == []


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_packs_have_a_largest_size(weight: float) -> None:
    trials = [trial(seed) for seed in range(150)]
    packs = pack(trials, {t.trial_id: weight for t in trials}, 1)
    assert len(packs) == 3
    assert max(len(one) for one in packs) <= LARGEST


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200), st.integers(1, 9))
def test_every_trial_is_in_one_pack_and_the_work_is_near_even(values: list[float], slots: int) -> None:
    trials = [trial(seed) for seed in range(len(values))]
    weights = {t.trial_id: value for t, value in zip(trials, values, strict=True)}
    packs = pack(trials, weights, slots)
    assert sorted(t.seed for one in packs for t in one) == list(range(len(values)))
    if len(trials) <= LARGEST:
        assert max(loads(packs, weights)) <= sum(values) / slots + max(values) + 1e-9
        assert len(packs) <= slots

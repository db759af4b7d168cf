"""Which samples each process sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttl.errors import TrialError
from ttl.training.batches import (
    check_batches,
    class_weights,
    evaluation_batches,
    share,
    training_batches,
)


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 5))
def test_every_sample_is_scored_once_whatever_the_batch_and_the_world(count, batch, world):
    indices = np.arange(100, 100 + count)
    ranks = [
        list(evaluation_batches(indices, batch_size=batch, rank=rank, world=world)) for rank in range(world)
    ]
    assert len({tuple(len(one) for one in rank) for rank in ranks}) == 1  # or a gather would hang
    rows = np.concatenate([one for rank in ranks for one in rank])
    assert sorted(rows[rows >= 0]) == list(indices)


@given(st.integers(2, 500), st.integers(2, 64), st.integers(1, 5))
def test_an_epoch_sees_every_sample_once_and_the_global_batch_is_the_same(count, batch, world):
    batches = training_batches(np.arange(count), batch_size=batch, seed=1, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert max(map(len, batches)) <= batch
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    for one in batches:
        parts = [one[share(len(one), rank=rank, world=world)] for rank in range(world)]
        assert list(np.concatenate(parts)) == list(one)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_seeds_differ_and_repeat():
    def first(seed, epoch):
        return list(training_batches(np.arange(50), batch_size=10, seed=seed, epoch=epoch)[0])

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(0, 2)
    assert first(0, 1) != first(1, 1)


def test_class_weights_are_inverse_to_frequency_with_mean_one_over_samples():
    labels = np.array([0] * 30 + [1] * 10)
    weights = class_weights(labels, 2, weighted=True)
    assert weights == pytest.approx([40 / 60, 40 / 20])
    assert weights[labels].mean() == pytest.approx(1)
    assert list(class_weights(labels, 2, weighted=False)) == [1, 1]
    with pytest.raises(TrialError, match="class number 2"):
        class_weights(labels, 3, weighted=True)


def test_a_share_of_one_image_is_refused():
    check_batches(10, batch_size=64, parts=5)
    with pytest.raises(TrialError, match="leave 1 for each of 6 parts"):
        check_batches(10, batch_size=64, parts=6)

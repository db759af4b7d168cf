"""Bins of what was predicted against what was found."""

import numpy as np
import pytest

from ttl.evaluation.metrics import expected_calibration_error
from ttl.evaluation.reliability import binned, reliability


def test_bins_have_the_means_of_what_lies_in_them() -> None:
    found = np.array([False, True, True, False])
    bins = binned(found, np.array([0.1, 0.15, 0.2, 1.0]))
    assert [one.images for one in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert (bins[1].predicted, bins[1].found) == (pytest.approx(0.175), 1.0)
    assert (bins[2].predicted, bins[2].found) == (None, None)
    assert (bins[9].predicted, bins[9].found, bins[9].high) == (1.0, 0.0, 1.0)


def test_of_two_classes_the_second_is_looked_at_and_of_more_the_likeliest() -> None:
    two = reliability(np.array([1, 0]), np.array([[0.75, 0.25], [0.75, 0.25]]))
    assert (two[2].images, two[2].found) == (2, 0.5)
    three = reliability(np.array([1, 0]), np.array([[0.2, 0.45, 0.35], [0.2, 0.45, 0.35]]))
    assert (three[4].images, three[4].found) == (2, 0.5)


def test_the_gaps_of_several_classes_add_up_to_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 500)
    labels = rng.integers(0, 3, 500)
    bins = [one for one in reliability(labels, scores, 15) if one.images]
    error = sum(one.images * abs(one.found - one.predicted) for one in bins) / 500  # type: ignore[operator]
    assert error == pytest.approx(expected_calibration_error(labels, scores))

"""Tests over patients and seeds, where the answer is known in closed form or by simulation."""

import numpy as np
import pytest

from ttl.errors import SearchError
from ttl.evaluation.paired import Pair, compare_seeds, holm


def pair(candidate, reference, labels, patients=None):
    people = np.arange(len(labels)) if patients is None else patients
    both = (np.stack([1 - scores, scores], axis=1) for scores in (candidate, reference))
    one, other = both
    return Pair(labels=labels, patients=np.asarray(people).astype(str), candidate=one, reference=other)


def test_holm_against_its_published_example():
    # Four p-values, of which the middle two are held by the one before (Holm 1979, the rule itself).
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_network_twice_differs_in_nothing():
    labels = np.arange(40) % 2
    scores = np.random.default_rng(0).random(40)
    found = compare_seeds([pair(scores, scores, labels)] * 2, resamples=200)
    assert (found.difference.value, found.difference.low, found.difference.high, found.p) == (0, 0, 0, 1.0)


def test_seeds_that_disagree_make_the_interval_wider_by_their_variance():
    """Patients who cannot vary: what is left is the variance of a mean of seeds, s²/n."""
    labels = np.arange(400) % 2
    perfect, worse = labels.astype(float), np.where(np.arange(400) < 200, 1 - labels, labels).astype(float)
    chance = np.full(400, 0.5)
    seeds = [pair(perfect, chance, labels), pair(worse, chance, labels), pair(chance, chance, labels)]
    found = compare_seeds(seeds, resamples=2000, confidence=0.68)
    # The differences are 0.5, 0 (of half the patients right, half wrong) and 0.
    assert found.difference.value == pytest.approx(0.5 / 3)
    expected = np.std([0.5, 0, 0], ddof=1) / np.sqrt(3)
    assert (found.difference.high - found.difference.low) / 2 == pytest.approx(expected, rel=0.6)
    alone = compare_seeds(seeds[:1], resamples=500)
    assert (alone.difference.low, alone.difference.high) == (0.5, 0.5)


def test_the_error_of_the_first_kind_is_near_its_level():
    rejected = 0
    for number in range(60):
        rng = np.random.default_rng(number)
        labels = np.arange(80) % 2
        shared = rng.normal(size=80)
        seeds = [
            pair(
                *(1 / (1 + np.exp(-(labels + shared + 0.7 * rng.normal(size=80)))) for _ in range(2)), labels
            )
            for _ in range(3)
        ]
        rejected += compare_seeds(seeds, resamples=300).p < 0.05
    assert rejected <= 8


def test_images_of_a_patient_are_drawn_together():
    rng = np.random.default_rng(1)
    labels, scores = np.arange(40) % 2, rng.random(40)
    other = np.clip(labels + rng.normal(size=40), 0, 1) / 2
    once = compare_seeds([pair(scores, other, labels)], resamples=1000)
    copies = compare_seeds(
        [pair(np.tile(scores, 4), np.tile(other, 4), np.tile(labels, 4), np.tile(np.arange(40), 4))],
        resamples=1000,
    )
    width = [one.difference.high - one.difference.low for one in (once, copies)]
    assert width[1] == pytest.approx(width[0], rel=0.1)


def test_too_few_patients_are_an_error():
    alike = pair(np.array([0.1, 0.2]), np.array([0.2, 0.8]), np.array([1, 1]))
    with pytest.raises(SearchError, match="200 of 200 resamples of 2 patients lack a class"):
        compare_seeds([alike], resamples=200)

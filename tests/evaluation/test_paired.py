"""Tests over patients and seeds, where the answer is known in closed form or by simulation."""

import numpy as np
import pytest
from scipy import stats

from ttl.errors import SearchError
from ttl.evaluation.paired import Pair, compare_seeds, holm


def pair(candidate, reference, labels, patients=None):
    people = np.arange(len(labels)) if patients is None else patients
    both = (np.stack([1 - scores, scores], axis=1) for scores in (candidate, reference))
    one, other = both
    return Pair(labels=labels, patients=np.asarray(people).astype(str), candidate=one, reference=other)


def simulated(number, *, seeds, training=0.0, method=0.0, patient=1.0, image=0.0, gap=0.0, patients=60):
    """Return pairs of two methods, each of whose trainings is better or worse at the positives by chance.

    Scores have a part of each patient that all networks have, one that those of a method have (`method`), and
    one that is each network's own (`image`). Without a `gap` both methods have the same law.
    """
    rng = np.random.default_rng(number)
    labels = np.arange(patients) % 2
    common = patient * rng.normal(size=patients)
    own = method * rng.normal(size=(2, patients))
    effects = training * rng.normal(size=(seeds, 2, 1)) + [[gap], [0.0]]
    noise = image * rng.normal(size=(seeds, 2, patients))
    positive = 1 / (1 + np.exp(-(labels * (1.2 + effects) + common + own + noise)))
    return [pair(*both, labels) for both in positive]


def rejections(runs, **how):
    return sum(compare_seeds(simulated(number, **how), resamples=80).p < 0.05 for number in range(runs))


def delong(labels, candidate, reference):
    """Return the standard error of a difference of AUROCs, by the placements (DeLong et al. 1988)."""
    parts = []
    for scores in (candidate, reference):
        above = scores[labels == 1][:, None] - scores[labels == 0]
        wins = (above > 0) + 0.5 * (above == 0)
        parts.append((wins.mean(axis=1), wins.mean(axis=0)))
    return np.sqrt(sum((one - other).var(ddof=1) / len(one) for one, other in zip(*parts, strict=True)))


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


def disagreeing():
    """Return pairs whose differences are 0.5, 0 (of half the patients right, half wrong) and 0."""
    labels = np.arange(400) % 2
    perfect, worse = labels.astype(float), np.where(np.arange(400) < 200, 1 - labels, labels).astype(float)
    chance = np.full(400, 0.5)
    return [pair(one, chance, labels) for one in (perfect, worse, chance)]


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_seeds_that_disagree_have_the_t_interval_of_their_mean(overlap):
    """The patients have no part in common between two seeds: what is left is Student's interval.

    With a split for each seed, it is Nadeau and Bengio's.
    """
    found = compare_seeds(disagreeing(), resamples=200, confidence=0.9, overlap=overlap)
    error = np.std([0.5, 0, 0], ddof=1) * np.sqrt(1 / 3 + overlap)
    assert found.difference.value == pytest.approx(0.5 / 3)
    half = stats.t.ppf(0.95, df=2) * error
    assert found.difference.low == pytest.approx(0.5 / 3 - half)
    assert found.difference.high == pytest.approx(min(1, 0.5 / 3 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / 3 / error, df=2))


def test_no_interval_goes_beyond_what_a_difference_can_be():
    found = compare_seeds(disagreeing(), resamples=200, confidence=0.99)
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)


def test_seeds_that_agree_leave_the_variance_of_the_patients():
    """Networks that are trained alike each time: the error is DeLong's, however many they are."""
    (one,) = simulated(1, seeds=1, method=0.5, patients=300)
    error = delong(one.labels, one.candidate[:, 1], one.reference[:, 1])
    for seeds in (1, 3):
        found = compare_seeds([one] * seeds, resamples=1000)
        half = (found.difference.high - found.difference.low) / 2
        assert half == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.1)
        assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference.value) / error), abs=0.05)


def test_a_single_seed_leaves_the_variation_between_trainings_out():
    alone = compare_seeds(disagreeing()[:1], resamples=500)
    assert (alone.difference.low, alone.difference.high) == (0.5, 0.5)
    assert alone.p == 1 / 501


@pytest.mark.parametrize(
    ("seeds", "parts"),
    [
        # Trainings alone vary, and patients do not: three of one sign are no evidence, nor are two.
        (2, {"training": 0.5, "patient": 0.5}),
        (3, {"training": 0.5, "patient": 0.5}),
        # Both: where the seeds happen to agree, degrees of freedom by Satterthwaite are too many.
        (2, {"training": 0.8, "method": 0.4}),
        (3, {"training": 0.3, "method": 0.6, "image": 0.2}),
    ],
)
def test_the_error_of_the_first_kind_is_at_most_its_level(seeds, parts):
    runs = 250
    assert rejections(runs, seeds=seeds, **parts) <= stats.binom.ppf(0.99, runs, 0.05)


def test_a_real_difference_is_found():
    parts = {"training": 0.15, "method": 0.3, "image": 0.3, "gap": 1.0}
    assert rejections(60, seeds=3, patients=150, **parts) >= 45
    # What is each network's own noise is in the seeds' variance alone: counted twice, it would hide this.
    assert rejections(60, seeds=5, image=0.8, gap=0.7) >= 50


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_interval_and_the_p_value_say_the_same(seeds):
    said = set()
    for number in range(30):
        pairs = simulated(number, seeds=seeds, training=0.3, gap=(number % 4) * 0.8, image=0.1)
        found = compare_seeds(pairs, resamples=60, confidence=0.9)
        excluded = not found.difference.low <= 0 <= found.difference.high
        assert excluded == (found.p < 0.1)
        edge = compare_seeds(pairs, resamples=60, confidence=1 - found.p).difference
        if 1 / 61 < found.p < 1:
            assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)
        said.add(excluded)
    assert said == {True, False}


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

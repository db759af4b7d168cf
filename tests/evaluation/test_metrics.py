"""Metrics against closed forms, and the bootstrap's arithmetic against scikit-learn's."""

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from ttl.errors import DataError, SearchError
from ttl.evaluation import statistics
from ttl.evaluation.metrics import (
    choose_threshold,
    evaluate,
    expected_calibration_error,
    softmax,
    weighted_log_loss,
)


def probabilities(positive):
    positive = np.asarray(positive, dtype=float)
    return np.stack([1 - positive, positive], axis=1)


def sample(n=300, seed=0, classes=2, ties=False):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    labels[:classes] = range(classes)
    logits = generator.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    scores = softmax(logits)
    if ties:
        scores = probabilities(np.round(scores[:, 1], 1))
    return labels, scores


def test_a_case_done_by_hand():
    labels = np.array([0, 0, 1, 1])
    found = evaluate(labels, probabilities([0.1, 0.4, 0.35, 0.8]), threshold=0.375)
    assert found.auroc == 0.75  # 3 of the 4 pairs are in order
    assert found.auprc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert (found.accuracy, found.sensitivity, found.specificity) == (0.5, 0.5, 0.5)
    assert evaluate(labels, probabilities([0.1, 0.4, 0.35, 0.8])).accuracy == 0.75  # the likelier class


def test_multiclass_is_the_mean_of_one_against_the_rest():
    labels, scores = sample(classes=4)
    found = evaluate(labels, scores)
    each = [roc_auc_score(labels == c, scores[:, c]) for c in range(4)]
    assert found.auroc == pytest.approx(np.mean(each))
    assert found.auroc_per_class == pytest.approx(each)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    assert np.isnan(found.sensitivity)


def test_calibration_error_by_hand():
    # Ten answers at 0.8, of which six are right: the gap is 0.2. Ten at 0.55 and right: 0.45.
    labels = np.array([1] * 6 + [0] * 4 + [1] * 10)
    scores = probabilities([0.8] * 10 + [0.55] * 10)
    assert expected_calibration_error(labels, scores) == pytest.approx((0.2 * 10 + 0.45 * 10) / 20)


def test_threshold_separates_and_does_not_hang_on_one_score():
    labels = np.array([0, 0, 0, 1, 1])
    assert choose_threshold(labels, probabilities([0.1, 0.2, 0.3, 0.7, 0.9])) == pytest.approx(0.5)
    assert choose_threshold(np.array([0, 1, 2]), np.eye(3)) is None


def test_weighted_loss_by_hand():
    logits = np.log(np.array([[0.5, 0.5], [0.2, 0.8]]))
    weights = np.array([1.0, 3.0])
    expected = (-np.log(0.5) * 1 - np.log(0.8) * 3) / 4
    assert weighted_log_loss(np.array([0, 1]), logits, weights) == pytest.approx(expected)


def test_an_absent_class_is_an_error():
    with pytest.raises(DataError, match="no sample has the label 1"):
        evaluate(np.zeros(4, dtype=int), probabilities([0.1, 0.2, 0.3, 0.4]))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_weighted_metrics_equal_scikit_learns(classes, ties):
    labels, scores = sample(classes=classes, ties=ties and classes == 2)
    weights = np.random.default_rng(1).integers(0, 4, size=(5, len(labels))).astype(float)
    wanted = [1] if classes == 2 else range(classes)
    for ours, theirs in ((statistics.auroc, roc_auc_score), (statistics.auprc, average_precision_score)):
        expected = [
            np.mean([theirs(labels == c, scores[:, c], sample_weight=w) for c in wanted]) for w in weights
        ]
        assert ours(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


def test_unit_weights_give_the_plain_metrics():
    labels, scores = sample()
    plain = evaluate(labels, scores, threshold=0.3)
    ones = np.ones((1, len(labels)))
    for name, metric in statistics.metrics_at(0.3, 2).items():
        assert metric(labels, scores, ones)[0] == pytest.approx(getattr(plain, name)), name


def test_resampling_patients_widens_the_interval():
    """Four copies of each image are no more evidence than one, if they are one patient's."""
    labels, scores = sample(80)
    repeated = np.repeat(labels, 4), np.repeat(scores, 4, axis=0)
    patients = np.repeat(np.arange(80), 4)
    honest = statistics.interval(statistics.auroc, *repeated, patients)
    once = statistics.interval(statistics.auroc, labels, scores, np.arange(80))
    naive = statistics.interval(statistics.auroc, *repeated, np.arange(320))
    assert honest == once
    assert naive.high - naive.low < 0.6 * (honest.high - honest.low)


def test_interval_agrees_with_the_known_deviation_of_a_mean():
    labels = np.array([0, 1] * 200)
    correct = np.random.default_rng(2).random(400) < 0.8
    scores = probabilities(np.where(correct, labels, 1 - labels))
    accuracy = statistics.metrics_at(None, 2)["accuracy"]
    found = statistics.interval(accuracy, labels, scores, np.arange(400), resamples=4000)
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert found.value - found.low == pytest.approx(half, rel=0.1)
    assert found.high - found.value == pytest.approx(half, rel=0.1)


def test_a_paired_difference_is_tighter_than_an_unpaired_one():
    labels, scores = sample(200)
    other = softmax(np.log(scores) + np.random.default_rng(3).normal(0, 0.05, scores.shape))
    paired = statistics.paired_difference(labels, other[None], scores[None], np.arange(200))
    alone = statistics.interval(statistics.auroc, labels, scores, np.arange(200))
    assert abs(paired.value) < 0.01
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    same = statistics.paired_difference(labels, scores[None], scores[None], np.arange(200))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_chunks_do_not_change_the_result(monkeypatch):
    labels, scores = sample(50)
    whole = statistics.interval(statistics.auroc, labels, scores, np.arange(50))
    monkeypatch.setattr(statistics, "CHUNK", 50 * 7)
    assert statistics.interval(statistics.auroc, labels, scores, np.arange(50)) == whole


def test_too_few_patients_is_an_error():
    labels, scores = np.array([0, 1]), probabilities([0.2, 0.8])
    with pytest.raises(SearchError, match="2 patients lack a class: there are too few"):
        # Half of all draws of two take the same one twice; this seed's first 201 have more than half.
        statistics.interval(statistics.auroc, labels, scores, ["a", "b"], resamples=201, seed=0)


def test_two_thousand_resamples_of_a_thousand_images_take_under_two_seconds():
    labels, scores = sample(1000)
    started = time.perf_counter()
    statistics.interval(statistics.auroc, labels, scores, np.arange(1000))
    assert time.perf_counter() - started < 2

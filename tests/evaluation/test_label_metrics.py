"""Metrics of several labels against scikit-learn's on what is known; weighted ones against its weights."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score

from ttl.errors import DataError
from ttl.evaluation import labels as several
from ttl.evaluation import statistics
from ttl.evaluation.metrics import calibration_gap
from ttl.evaluation.scoring import ONE_CLASS, SEVERAL_LABELS, scoring_of

METRICS = ("auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ece")


def sample(n=200, classes=3, seed=0, unknown=0.15):
    """Labels of falling prevalence, some not known, and scores that follow them, with ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < 0.5 / np.arange(1, classes + 1)).astype(np.int64)
    scores = expit(np.round(rng.normal(size=labels.shape) + 1.5 * labels, 1))
    labels[rng.random(labels.shape) < unknown] = -1
    return labels, scores


def test_each_label_is_scikit_learns_on_what_is_known():
    labels, scores = sample()
    thresholds = (0.3, 0.5, 0.7)
    found = several.evaluate_labels(labels, scores, thresholds=thresholds)
    assert found.scored == (0, 1, 2)
    for c, threshold in enumerate(thresholds):
        known = labels[:, c] >= 0
        truth, ours = labels[known, c], scores[known, c]
        assert 0.1 < (~known).mean() < 0.2
        assert found.auroc_per_class[c] == roc_auc_score(truth, ours)
        assert found.auprc_per_class[c] == average_precision_score(truth, ours)
        assert found.sensitivity_per_class[c] == pytest.approx(recall_score(truth, ours >= threshold))
        assert found.specificity_per_class[c] == pytest.approx(recall_score(1 - truth, ours < threshold))
    assert found.auroc == pytest.approx(np.mean(found.auroc_per_class))
    assert found.sensitivity == pytest.approx(np.mean(found.sensitivity_per_class))
    assert found.auroc == pytest.approx(several.mean_auroc(labels, scores))
    # The same in one call, where everything is known.
    labels, scores = sample(unknown=0)
    assert several.mean_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores, average="macro"))


def test_what_is_not_known_has_no_say():
    labels, scores = sample()
    other = np.where(labels < 0, 1 - scores, scores)
    assert several.evaluate_labels(labels, scores) == several.evaluate_labels(labels, other)
    assert several.choose_thresholds(labels, scores) == several.choose_thresholds(labels, other)


def test_a_label_that_cannot_be_scored_is_named_and_is_in_no_mean():
    labels, scores = sample()
    labels[labels[:, 1] == 1, 1] = -1
    found = several.evaluate_labels(labels, scores)
    assert found.scored == (0, 2)
    for name in ("auroc", "auprc", "sensitivity", "specificity", "ece"):
        each = getattr(found, f"{name}_per_class")
        assert np.isnan(each[1])
        assert getattr(found, name) == pytest.approx((each[0] + each[2]) / 2)
    assert several.choose_thresholds(labels, scores)[1] == 0.5
    labels[:, [0, 2]] = 0
    with pytest.raises(DataError, match="nothing to score"):
        several.evaluate_labels(labels, scores)


def test_each_label_has_its_own_youden_threshold():
    labels = np.array([[0, 0], [0, 0], [1, 0], [1, 1], [-1, 1]])
    scores = np.array([[0.1, 0.2], [0.2, 0.3], [0.4, 0.5], [0.6, 0.9], [0.0, 0.7]])
    assert several.choose_thresholds(labels, scores) == pytest.approx((0.3, 0.6))
    decided = several.decide_labels(scores, (0.3, 0.6))
    assert decided.tolist() == [[0, 0], [0, 0], [1, 0], [1, 1], [0, 1]]


def test_calibration_of_a_label_by_hand():
    # Ten at 0.2 of which four are present: a gap of 0.2. Ten at 0.9, all present: 0.1.
    positive = np.array([True] * 4 + [False] * 6 + [True] * 10)
    assert calibration_gap(positive, np.repeat([0.2, 0.9], 10)) == pytest.approx(0.15)


def test_weighted_loss_is_scikit_learns_with_weights():
    labels, scores = sample()
    positive = np.array([1.0, 3.0, 5.0])
    logits = np.log(scores / (1 - scores))
    known = labels >= 0
    weights = np.where(labels == 1, positive, 1.0)[known]
    total = log_loss(labels[known], scores[known], sample_weight=weights) * weights.sum()
    # A mean over labels, not over weights, as torch's `pos_weight` has it.
    assert several.weighted_bce(labels, logits, positive) == pytest.approx(total / known.sum())
    assert np.isfinite(several.weighted_bce(np.array([[1, 0]]), np.array([[-1e4, 1e4]]), np.ones(2)))


def test_resampled_metrics_are_scikit_learns_with_weights():
    labels, scores = sample()
    weights = np.random.default_rng(1).integers(0, 4, size=(5, len(labels))).astype(float)
    for ours, theirs in ((statistics.auroc, roc_auc_score), (statistics.auprc, average_precision_score)):
        expected = [
            np.mean(
                [
                    theirs(labels[known, c], scores[known, c], sample_weight=w[known])
                    for c in range(3)
                    for known in [labels[:, c] >= 0]
                ]
            )
            for w in weights
        ]
        assert ours(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


def test_unit_weights_give_the_plain_metrics_and_copies_do_too():
    labels, scores = sample()
    labels[labels[:, 1] == 1, 1] = -1
    thresholds = (0.3, 0.5, 0.7)
    plain = several.evaluate_labels(labels, scores, thresholds=thresholds)
    twice = several.evaluate_labels(
        np.vstack([labels, labels[:50]]), np.vstack([scores, scores[:50]]), thresholds=thresholds
    )
    weights = np.ones((2, len(labels)))
    weights[1, :50] = 2
    found = statistics.metrics_at(thresholds, 3)
    assert set(found) == set(METRICS)
    for name, metric in found.items():
        expected = [getattr(plain, name), getattr(twice, name)]
        assert metric(labels, scores, weights) == pytest.approx(expected), name


def test_the_assured_interval_is_wider_and_does_not_hang_on_unscored_labels():
    labels, scores = sample(60, unknown=0.3)
    patients = np.arange(60)
    settings = {"confidence": 0.95, "resamples": 400}
    better = np.clip(scores + 0.2 * (labels == 1), 0, 1)
    plain = statistics.paired_difference(labels, better[None], scores[None], patients, **settings)
    sure = statistics.assured(labels, better, scores, patients, **settings)
    assert sure.value == pytest.approx(plain.value)
    assert sure.high - sure.low > plain.high - plain.low
    same = statistics.assured(labels, scores, scores, patients, **settings)
    assert same.value == 0
    assert same.low < 0 < same.high
    more = np.hstack([labels, np.zeros((60, 1), dtype=np.int64)])
    padded = [np.hstack([one, np.full((60, 1), 0.5)]) for one in (better, scores)]
    assert statistics.assured(more, *padded, patients, **settings) == sure


def test_the_task_says_how_logits_are_read():
    logits = np.array([[0.0, 2.0]])
    assert SEVERAL_LABELS.probabilities(logits) == pytest.approx(expit(logits))
    assert ONE_CLASS.probabilities(logits).sum() == pytest.approx(1)
    assert scoring_of("multilabel") is SEVERAL_LABELS
    assert scoring_of("binary") is scoring_of("multiclass") is ONE_CLASS


def test_one_label_is_assured_as_the_binary_task_is():
    labels, scores = sample(60, classes=1, unknown=0)
    better = np.clip(scores + 0.1 * labels, 0, 1)
    patients = np.arange(60) // 2
    binary = [np.hstack([1 - one, one]) for one in (better, scores)]
    expected = statistics.assured(labels[:, 0], *binary, patients, resamples=300)
    assert statistics.assured(labels, better, scores, patients, resamples=300) == expected


def test_of_the_images_that_assure_a_label_nothing_else_is_known():
    labels, _ = sample(60)
    added, right, _, films = statistics._added_labels(labels, np.arange(60))
    assert added.shape == right.shape == (12, 3)
    assert ((added >= 0).sum(axis=1) == 1).all()
    assert [(added == side).sum() for side in (0, 1)] == [6, 6]
    assert (films == 1).all()

"""Metrics of weighted images, for many weightings at once: those of a bootstrap.

The tests hold each against scikit-learn's weighted one. Several labels (`ttl.evaluation.labels`) are averaged
over those that can be scored in the images at hand.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ttl.data.labels import NOT_KNOWN, PRESENT
from ttl.evaluation.labels import scorable
from ttl.evaluation.metrics import Labels, Probabilities, bin_of, decide
from ttl.evaluation.scoring import Threshold

Weights = NDArray[np.float64]
WeightedMetric = Callable[[Labels, Probabilities, Weights], Weights]
LabelMetric = Callable[[NDArray[np.bool_], NDArray[np.float64], Weights, int], Weights]
"""Of whether a label is present, its probabilities [n], weights [resamples, n] and the label's number."""


def metrics_at(threshold: Threshold, classes: int) -> dict[str, WeightedMetric]:
    """Return the metrics of `ttl.evaluation.metrics.evaluate` by name, for weights [resamples, n].

    With a threshold for each label, those of `ttl.evaluation.labels.evaluate_labels`.
    """
    if isinstance(threshold, Sequence):
        return _label_metrics(threshold)

    def accuracy(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
        return _share(decide(probabilities, threshold) == labels, weights)

    def recall(of: int) -> WeightedMetric:
        def metric(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
            here = labels == of
            return _share(decide(probabilities, threshold)[here] == of, weights[:, here])

        return metric

    def balanced(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
        return np.asarray(
            np.mean([recall(c)(labels, probabilities, weights) for c in range(classes)], axis=0)
        )

    found: dict[str, WeightedMetric] = {
        "auroc": auroc,
        "auprc": auprc,
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
    }
    if classes == 2:
        found |= {"sensitivity": recall(1), "specificity": recall(0)}
    return found | {"ece": calibration_error}


def auroc(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
    """Return the AUROC of each row of weights [resamples, n]; NaN where a class has no weight."""
    return _over_classes(_auroc, labels, probabilities, weights)


def auprc(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
    """Return the average precision of each row of weights [resamples, n]; NaN where a class has none."""
    return _over_classes(_average_precision, labels, probabilities, weights)


def calibration_error(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
    """Return the expected calibration error of each row of weights [resamples, n]."""
    if labels.ndim == 2:
        return _over_labels(_calibration_gap, labels, probabilities, weights)
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    return _gaps(gap, confidence, weights)


def _label_metrics(thresholds: Sequence[float]) -> dict[str, WeightedMetric]:
    def over_labels(metric: LabelMetric) -> WeightedMetric:
        def found(labels: Labels, probabilities: Probabilities, weights: Weights) -> Weights:
            return _over_labels(metric, labels, probabilities, weights)

        return found

    def accuracy(
        positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights, label: int
    ) -> Weights:
        return _share((scores >= thresholds[label]) == positive, weights)

    def sensitivity(
        positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights, label: int
    ) -> Weights:
        return _share(scores[positive] >= thresholds[label], weights[:, positive])

    def specificity(
        positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights, label: int
    ) -> Weights:
        return _share(scores[~positive] < thresholds[label], weights[:, ~positive])

    def balanced(
        positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights, label: int
    ) -> Weights:
        rest = (positive, scores, weights, label)
        return np.asarray((sensitivity(*rest) + specificity(*rest)) / 2)

    return {
        "auroc": auroc,
        "auprc": auprc,
        "accuracy": over_labels(accuracy),
        "balanced_accuracy": over_labels(balanced),
        "sensitivity": over_labels(sensitivity),
        "specificity": over_labels(specificity),
        "ece": calibration_error,
    }


def _over_labels(
    metric: LabelMetric, labels: Labels, probabilities: Probabilities, weights: Weights
) -> Weights:
    each = []
    for label in np.flatnonzero(scorable(labels)):
        known = labels[:, label] != NOT_KNOWN
        positive = labels[known, label] == PRESENT
        each.append(metric(positive, probabilities[known, label], weights[:, known], int(label)))
    return np.asarray(np.mean(each, axis=0)) if each else np.full(len(weights), np.nan)


def _calibration_gap(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights, label: int
) -> Weights:
    del label
    return _gaps(positive - scores, scores, weights)


def _gaps(gap: NDArray[np.float64], confidence: NDArray[np.float64], weights: Weights) -> Weights:
    place = bin_of(confidence)
    total = np.zeros(len(weights))
    for one in np.unique(place):
        here = place == one
        total += np.abs(weights[:, here] @ gap[here])
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weights.sum(axis=1))


def _share(hits: NDArray[np.bool_], weights: Weights) -> Weights:
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ hits.astype(float) / weights.sum(axis=1))


def _over_classes(
    metric: Callable[[NDArray[np.bool_], NDArray[np.float64], Weights], Weights],
    labels: Labels,
    probabilities: Probabilities,
    weights: Weights,
) -> Weights:
    if labels.ndim == 2:
        return _over_labels(lambda *of: metric(*of[:3]), labels, probabilities, weights)
    classes: Sequence[int] = range(probabilities.shape[1])
    wanted = [1] if len(classes) == 2 else classes
    return np.asarray(np.mean([metric(labels == c, probabilities[:, c], weights) for c in wanted], axis=0))


def _cumulated(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights
) -> tuple[Weights, Weights]:
    """Return the weight of positives and of negatives at each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    sorted_weights, hit = weights[:, order], positive[order]
    return (
        np.add.reduceat(sorted_weights * hit, starts, axis=1),
        np.add.reduceat(sorted_weights * ~hit, starts, axis=1),
    )


def _auroc(positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights) -> Weights:
    """Return the chance that a positive scores above a negative, ties counted half (Mann-Whitney)."""
    hits, misses = _cumulated(positive, scores, weights)
    above = hits.cumsum(axis=1) - hits / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((above * misses).sum(axis=1) / (hits.sum(axis=1) * misses.sum(axis=1)))


def _average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights) -> Weights:
    hits, misses = _cumulated(positive, scores, weights)
    found, taken = hits.cumsum(axis=1), (hits + misses).cumsum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(taken > 0, found / taken, 0.0)
        return np.asarray((hits * precision).sum(axis=1) / hits.sum(axis=1))

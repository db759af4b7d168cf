"""How well a network classifies: scikit-learn's metrics, and calibration."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score, roc_curve

from ttl.errors import DataError

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]

ECE_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics of one set of predictions.

    `auroc` and `auprc` are those of the second class of a binary task, and unweighted means over classes
    (one against the rest) of others. `sensitivity` and `specificity` are of the second class of a binary
    task and NaN otherwise; they, `accuracy` and `balanced_accuracy` hold at the threshold.
    """

    auroc: float
    auprc: float
    accuracy: float
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    ece: float
    auroc_per_class: tuple[float, ...]
    auprc_per_class: tuple[float, ...]


def evaluate(labels: Labels, probabilities: Probabilities, *, threshold: float | None = None) -> Metrics:
    """Return the metrics of probabilities [n, classes] against labels [n].

    `threshold` on the probability of the second class decides a binary task; None takes the likelier class.
    Every class must occur: a metric of an absent class does not exist.
    """
    _check(labels, probabilities)
    classes = probabilities.shape[1]
    each = [(labels == c, probabilities[:, c]) for c in range(classes)]
    auroc = tuple(float(roc_auc_score(is_class, scores)) for is_class, scores in each)
    auprc = tuple(float(average_precision_score(is_class, scores)) for is_class, scores in each)
    predicted = decide(probabilities, threshold)
    recall = [float((predicted[labels == c] == c).mean()) for c in range(classes)]
    binary = classes == 2
    return Metrics(
        auroc=auroc[1] if binary else float(np.mean(auroc)),
        auprc=auprc[1] if binary else float(np.mean(auprc)),
        accuracy=float((predicted == labels).mean()),
        balanced_accuracy=float(np.mean(recall)),
        sensitivity=recall[1] if binary else math.nan,
        specificity=recall[0] if binary else math.nan,
        ece=expected_calibration_error(labels, probabilities),
        auroc_per_class=auroc,
        auprc_per_class=auprc,
    )


def auroc(labels: Labels, probabilities: Probabilities) -> float:
    """Return the AUROC alone, as `evaluate` does."""
    _check(labels, probabilities)
    classes = range(probabilities.shape[1])
    wanted = [1] if len(classes) == 2 else classes
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in wanted]))


def decide(probabilities: Probabilities, threshold: float | None) -> Labels:
    """Return the predicted class of each row."""
    if threshold is None or probabilities.shape[1] != 2:
        return np.asarray(probabilities.argmax(axis=1))
    return (probabilities[:, 1] >= threshold).astype(np.int64)


def choose_threshold(labels: Labels, probabilities: Probabilities) -> float | None:
    """Return the threshold on the second class's probability that is best; None if the task is not binary."""
    if probabilities.shape[1] != 2:
        return None
    _check(labels, probabilities)
    return best_threshold(labels == 1, probabilities[:, 1])


def best_threshold(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the threshold with the largest sensitivity + specificity (Youden 1950) on scores [n].

    It lies half-way between the scores that it separates, so that it does not hang on one image's score.
    """
    false_positives, true_positives, thresholds = roc_curve(positive, scores)
    best = float(thresholds[int(np.argmax(true_positives - false_positives))])
    if math.isinf(best):
        return 0.5
    below = scores[scores < best]
    return float((best + below.max()) / 2) if len(below) else best


def bin_of(predicted: NDArray[np.float64], bins: int = ECE_BINS) -> NDArray[np.int64]:
    """Return the bin of each prediction in [0, 1]: of equal width, an upper edge belongs to the bin below."""
    return np.clip(np.ceil(predicted * bins).astype(np.int64) - 1, 0, bins - 1)


def calibration_gap(found: NDArray[np.bool_], predicted: NDArray[np.float64]) -> float:
    """Return the mean gap between what was predicted [n] and how often it was found [n], over bins."""
    gaps = np.bincount(bin_of(predicted), weights=found - predicted, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(found))


def expected_calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins (Guo et al., ICML 2017)."""
    return calibration_gap(probabilities.argmax(axis=1) == labels, probabilities.max(axis=1))


def weighted_log_loss(labels: Labels, logits: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the cross-entropy of logits [n, classes], weighted by the class of each label."""
    return float(
        log_loss(
            labels,
            softmax(logits),
            sample_weight=weights[labels],
            labels=np.arange(logits.shape[1]),
        )
    )


def softmax(logits: NDArray[np.float64]) -> Probabilities:
    """Return the probabilities of logits [n, classes], in float64."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _check(labels: Labels, probabilities: Probabilities) -> None:
    if probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise DataError(f"{len(labels)} labels do not go with probabilities of shape {probabilities.shape}")
    missing = sorted(set(range(probabilities.shape[1])) - set(np.unique(labels).tolist()))
    if missing:
        raise DataError(
            f"no sample has the label {missing[0]}: metrics need all {probabilities.shape[1]} classes"
        )

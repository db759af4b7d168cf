"""How well a network tells several labels of one image: each label alone, and their mean.

Labels are [n, classes] (`ttl.data.labels`); what is not known counts for nothing. A label that is always
present, or never, in the images at hand cannot be scored: its figures are NaN, and means are over the labels
that can be, which `scorable` names. So a mean is never over fewer labels without its being said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl.data.labels import ABSENT, NOT_KNOWN, PRESENT
from ttl.errors import DataError
from ttl.evaluation.metrics import Labels, Metrics, Probabilities, best_threshold, calibration_gap


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics(Metrics):
    """Metrics of several labels: means over those that can be scored, and each label's own.

    `accuracy`, `balanced_accuracy`, `sensitivity` and `specificity` are at each label's threshold; `ece` is
    the gap between the probability of a label and how often it is present. `scored` are the numbers of the
    labels in the means; of others the figures are NaN.
    """

    scored: tuple[int, ...]
    sensitivity_per_class: tuple[float, ...]
    specificity_per_class: tuple[float, ...]
    ece_per_class: tuple[float, ...]


def scorable(labels: Labels) -> NDArray[np.bool_]:
    """Return which of the labels [n, classes] are present in some image and absent in some, [classes]."""
    return np.asarray((labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0))


def known(
    labels: Labels, probabilities: Probabilities, label: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return whether a label is present, and its probability, in the images of which that is known."""
    here = labels[:, label] != NOT_KNOWN
    return labels[here, label] == PRESENT, probabilities[here, label]


def evaluate_labels(
    labels: Labels, probabilities: Probabilities, *, thresholds: Sequence[float] | None = None
) -> LabelMetrics:
    """Return the metrics of probabilities [n, classes] against labels [n, classes].

    A label is predicted from its threshold on, by default 0.5. Raises `DataError` where none can be scored.
    """
    _check(labels, probabilities)
    cuts = [0.5] * labels.shape[1] if thresholds is None else list(thresholds)
    each = [_one(*known(labels, probabilities, c), cuts[c]) for c in range(labels.shape[1])]
    scored = tuple(np.flatnonzero(scorable(labels)).tolist())

    def mean(name: str) -> float:
        return float(np.mean([each[c][name] for c in scored]))

    def per_class(name: str) -> tuple[float, ...]:
        return tuple(one[name] for one in each)

    return LabelMetrics(
        auroc=mean("auroc"),
        auprc=mean("auprc"),
        accuracy=mean("accuracy"),
        balanced_accuracy=(mean("sensitivity") + mean("specificity")) / 2,
        sensitivity=mean("sensitivity"),
        specificity=mean("specificity"),
        ece=mean("ece"),
        auroc_per_class=per_class("auroc"),
        auprc_per_class=per_class("auprc"),
        scored=scored,
        sensitivity_per_class=per_class("sensitivity"),
        specificity_per_class=per_class("specificity"),
        ece_per_class=per_class("ece"),
    )


def mean_auroc(labels: Labels, probabilities: Probabilities) -> float:
    """Return the AUROC alone, as `evaluate_labels` does."""
    _check(labels, probabilities)
    scored = np.flatnonzero(scorable(labels))
    return float(np.mean([roc_auc_score(*known(labels, probabilities, int(c))) for c in scored]))


def choose_thresholds(labels: Labels, probabilities: Probabilities) -> tuple[float, ...]:
    """Return each label's threshold with the largest sensitivity + specificity; 0.5 where it has none."""
    _check(labels, probabilities)
    return tuple(
        best_threshold(*known(labels, probabilities, c)) if can else 0.5
        for c, can in enumerate(scorable(labels))
    )


def decide_labels(probabilities: Probabilities, thresholds: Sequence[float]) -> Labels:
    """Return which labels are predicted, 0 or 1 [n, classes]: those that reach their threshold."""
    return (probabilities >= np.asarray(thresholds)).astype(np.int64)


def weighted_bce(labels: Labels, logits: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """Return the mean binary cross-entropy of logits [n, classes] over the labels that are known.

    A present label counts as `positive` [classes] says.
    """
    present, absent = labels == PRESENT, labels == ABSENT
    losses = -(present * positive * log_expit(logits) + absent * log_expit(-logits))
    return float(losses.sum() / (present | absent).sum())


def sigmoid(logits: NDArray[np.float64]) -> Probabilities:
    """Return the probabilities of logits, in float64."""
    return np.asarray(expit(logits), dtype=np.float64)


def _one(positive: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float) -> dict[str, float]:
    if positive.all() or not positive.any():
        return dict.fromkeys(("auroc", "auprc", "accuracy", "sensitivity", "specificity", "ece"), math.nan)
    predicted = scores >= threshold
    return {
        "auroc": float(roc_auc_score(positive, scores)),
        "auprc": float(average_precision_score(positive, scores)),
        "accuracy": float((predicted == positive).mean()),
        "sensitivity": float(predicted[positive].mean()),
        "specificity": float((~predicted[~positive]).mean()),
        "ece": calibration_gap(positive, scores),
    }


def _check(labels: Labels, probabilities: Probabilities) -> None:
    if labels.ndim != 2 or labels.shape != probabilities.shape:
        raise DataError(f"labels of shape {labels.shape} do not go with probabilities {probabilities.shape}")
    if not scorable(labels).any():
        raise DataError("every label is always present or never: there is nothing to score")

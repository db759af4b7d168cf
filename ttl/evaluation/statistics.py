"""Intervals by bootstrap over patients (Efron & Tibshirani 1993, percentile method).

All images of a patient are drawn together, for they are not independent. A resample is a weight for each
image, so that a metric over all resamples is array arithmetic; the tests hold each metric here against
scikit-learn's weighted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl.errors import SearchError
from ttl.evaluation.metrics import ECE_BINS, Labels, Probabilities, decide

Weights = NDArray[np.float64]
WeightedMetric = Callable[[Labels, Probabilities, Weights], Weights]

CHUNK = 4_000_000
"""Weights held at once: 32 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the interval around it."""

    value: float
    low: float
    high: float


def interval(
    metric: WeightedMetric,
    labels: Labels,
    probabilities: NDArray[np.float64],
    patients: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a metric's interval: mean over seeds of probabilities [seeds, n, classes] or [n, classes]."""
    stacked = probabilities[None] if probabilities.ndim == 2 else probabilities

    def mean_over_seeds(weights: Weights) -> Weights:
        return np.asarray(np.mean([metric(labels, one, weights) for one in stacked], axis=0))

    return _bootstrap(mean_over_seeds, patients, confidence=confidence, resamples=resamples, seed=seed)


def paired_difference(
    labels: Labels,
    candidate: NDArray[np.float64],
    reference: NDArray[np.float64],
    patients: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the interval of AUROC(candidate) − AUROC(reference), each a mean over its seeds.

    Both are probabilities [seeds, n, classes] of the same samples; a resample draws the same patients for
    both.
    """

    def difference(weights: Weights) -> Weights:
        means = [
            np.mean([auroc(labels, one, weights) for one in stacked], axis=0)
            for stacked in (candidate, reference)
        ]
        return np.asarray(means[0] - means[1])

    return _bootstrap(difference, patients, confidence=confidence, resamples=resamples, seed=seed)


def paired(
    candidate: Callable[[Weights], Weights],
    reference: Callable[[Weights], Weights],
    patients: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the interval of one statistic less another, of weights [resamples, n] of the same images."""
    return _bootstrap(
        lambda weights: np.asarray(candidate(weights) - reference(weights)),
        patients,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def assured(
    labels: Labels,
    candidate: Probabilities,
    reference: Probabilities,
    patients: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the interval of AUROC(candidate) − AUROC(reference) to decide by: one that few patients widen.

    Resamples of few patients, or of networks that err in none of them, vary too little, and would exclude a
    loss that a few patients more had shown. So each class is given half a patient of whom the candidate alone
    is right, and half a patient of whom the reference alone is, as Agresti & Min (2005) do for matched
    proportions. Probabilities are [n, classes] of the same images; `value` is without these patients.
    """
    classes = candidate.shape[1]
    added = np.repeat(np.arange(classes), 2)
    right = np.where(added[:, None] == np.arange(classes), 2.0, -1.0)
    for_candidate = np.arange(len(added))[:, None] % 2 == 0
    owner = np.unique(np.asarray(patients), return_inverse=True)[1]
    films = [(labels == one).sum() / max(1, len(np.unique(owner[labels == one]))) for one in range(classes)]
    scale = np.concatenate([np.ones(len(labels)), np.repeat(films, 2) / 2])
    truth = np.concatenate([labels, added])
    # Above and below every probability that there is.
    ours = np.concatenate([candidate, np.where(for_candidate, right, 1 - right)])
    theirs = np.concatenate([reference, np.where(for_candidate, 1 - right, right)])

    def difference(weights: Weights) -> Weights:
        scaled = weights * scale
        return np.asarray(auroc(truth, ours, scaled) - auroc(truth, theirs, scaled))

    everyone = np.concatenate([owner, owner.max() + 1 + np.arange(len(added))])
    wide = _bootstrap(difference, everyone, confidence=confidence, resamples=resamples, seed=seed)
    once = np.ones((1, len(labels)))
    value = auroc(labels, candidate, once) - auroc(labels, reference, once)
    return Interval(value=float(value[0]), low=wide.low, high=wide.high)


def metrics_at(threshold: float | None, classes: int) -> dict[str, WeightedMetric]:
    """Return the metrics of `ttl.evaluation.metrics.evaluate` by name, for weights [resamples, n]."""

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
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    place = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    total = np.zeros(len(weights))
    for one in np.unique(place):
        here = place == one
        total += np.abs(weights[:, here] @ gap[here])
    return np.asarray(total / weights.sum(axis=1))


def _bootstrap(
    statistic: Callable[[Weights], Weights],
    patients: ArrayLike,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // max(len(owner), len(names)))
    shares = np.full(len(names), 1 / len(names))

    def draw(count: int) -> Weights:
        times = generator.multinomial(len(names), shares, size=count)
        return np.asarray(times[:, owner], dtype=np.float64)

    drawn = [statistic(draw(min(step, resamples - start))) for start in range(0, resamples, step)]
    values = np.concatenate(drawn)
    usable = values[np.isfinite(values)]
    if len(usable) < resamples / 2:
        raise SearchError(
            f"{resamples - len(usable)} of {resamples} resamples of {len(names)} patients lack a class: "
            "there are too few patients for an interval; add validation data"
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail]).tolist()
    value = statistic(np.ones((1, len(owner)), dtype=np.float64))[0]
    return Interval(value=float(value), low=float(low), high=float(high))


def _share(hits: NDArray[np.bool_], weights: Weights) -> Weights:
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ hits.astype(float) / weights.sum(axis=1))


def _over_classes(
    metric: Callable[[NDArray[np.bool_], NDArray[np.float64], Weights], Weights],
    labels: Labels,
    probabilities: Probabilities,
    weights: Weights,
) -> Weights:
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

"""Intervals by bootstrap over patients (Efron & Tibshirani 1993, percentile method).

All images of a patient are drawn together, for they are not independent. A resample is a weight for each
image, so that a metric over all resamples is array arithmetic (`ttl.evaluation.weighted`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl.data.labels import ABSENT, NOT_KNOWN, PRESENT
from ttl.errors import SearchError
from ttl.evaluation.labels import scorable
from ttl.evaluation.metrics import Labels, Probabilities
from ttl.evaluation.weighted import (
    WeightedMetric,
    Weights,
    auprc,
    auroc,
    calibration_error,
    metrics_at,
)

__all__ = [
    "Interval",
    "WeightedMetric",
    "Weights",
    "assured",
    "auprc",
    "auroc",
    "calibration_error",
    "interval",
    "metrics_at",
    "paired",
    "paired_difference",
]

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
    owner = np.unique(np.asarray(patients), return_inverse=True)[1]
    added, right, wrong, films = (
        _added_labels(labels, owner)
        if labels.ndim == 2
        else _added(labels, owner, classes=candidate.shape[1])
    )
    for_candidate = np.arange(len(added))[:, None] % 2 == 0
    scale = np.concatenate([np.ones(len(labels)), films / 2])
    truth = np.concatenate([labels, added])
    ours = np.concatenate([candidate, np.where(for_candidate, right, wrong)])
    theirs = np.concatenate([reference, np.where(for_candidate, wrong, right)])

    def difference(weights: Weights) -> Weights:
        scaled = weights * scale
        return np.asarray(auroc(truth, ours, scaled) - auroc(truth, theirs, scaled))

    everyone = np.concatenate([owner, owner.max() + 1 + np.arange(len(added))])
    wide = _bootstrap(difference, everyone, confidence=confidence, resamples=resamples, seed=seed)
    once = np.ones((1, len(labels)))
    value = auroc(labels, candidate, once) - auroc(labels, reference, once)
    return Interval(value=float(value[0]), low=wide.low, high=wide.high)


def _added(
    labels: Labels, owner: NDArray[np.int64], *, classes: int
) -> tuple[Labels, Probabilities, Probabilities, NDArray[np.float64]]:
    """Return two images of each class, what is right and what is wrong of them, and a patient's number.

    That is the mean number of images that a patient of the class has. Right and wrong lie above and below
    every probability that there is.
    """
    added = np.repeat(np.arange(classes), 2)
    right = np.where(added[:, None] == np.arange(classes), 2.0, -1.0)
    films = [_films(labels == one, owner) for one in range(classes)]
    return added, right, 1 - right, np.repeat(films, 2)


def _added_labels(
    labels: Labels, owner: NDArray[np.int64]
) -> tuple[Labels, Probabilities, Probabilities, NDArray[np.float64]]:
    """Return the same for several labels: two images of each that is scored, present and absent.

    Of such an image nothing but that label is known.
    """
    rows = [(c, side) for c in np.flatnonzero(scorable(labels)) for side in (ABSENT, PRESENT)]
    added = np.full((2 * len(rows), labels.shape[1]), NOT_KNOWN, dtype=np.int64)
    for place, (label, side) in enumerate(rows):
        added[2 * place : 2 * place + 2, label] = side
    right = np.where(added == PRESENT, 2.0, -1.0)
    films = [_films(labels[:, label] == side, owner) for label, side in rows]
    return added, right, 1 - right, np.repeat(films, 2)


def _films(here: NDArray[np.bool_], owner: NDArray[np.int64]) -> float:
    return float(here.sum() / max(1, len(np.unique(owner[here]))))


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
    usable = usable_of(np.concatenate(drawn), patients=len(names), use="an interval; add validation data")
    value = statistic(np.ones((1, len(owner)), dtype=np.float64))[0]
    return percentile(float(value), usable, confidence)


def usable_of(values: Weights, *, patients: int, use: str) -> Weights:
    """Return the resamples' values that are finite; in the others a class was missing.

    Raises `SearchError`, naming what they were to be of `use` for, where these are most.
    """
    usable = values[np.isfinite(values)]
    if len(usable) < len(values) / 2:
        raise SearchError(
            f"{len(values) - len(usable)} of {len(values)} resamples of {patients} patients lack a class: "
            f"there are too few patients for {use}"
        )
    return usable


def percentile(value: float, usable: Weights, confidence: float) -> Interval:
    """Return a value with its interval by the percentile method, from its resamples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail]).tolist()
    return Interval(value=value, low=float(low), high=float(high))

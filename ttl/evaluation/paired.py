"""Whether one method is better than another over several seeds: intervals and tests of paired AUROC.

The question is of other patients and of another training, not of these networks alone (Bouthillier et al.,
MLSys 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from ttl.evaluation.metrics import Labels, Probabilities
from ttl.evaluation.statistics import CHUNK, Interval, Weights, auroc, usable_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two networks of one seed on the same n samples: probabilities [n, classes], patients [n]."""

    labels: Labels
    patients: NDArray[np.str_]
    candidate: Probabilities
    reference: Probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A mean difference over seeds, its interval, and the two-sided p-value of there being none."""

    difference: Interval
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """The variance of a mean difference: `trainings` from so many `seeds`, and `patients`."""

    trainings: float
    patients: float
    seeds: int

    def half_width(self, alpha: float) -> float:
        """Return half the width of the interval at confidence 1 − alpha."""
        patients = -float(ndtri(alpha / 2)) * math.sqrt(self.patients)
        if self.seeds == 1:
            return patients
        return math.hypot(-float(stdtrit(self.seeds - 1, alpha / 2)) * math.sqrt(self.trainings), patients)


def compare_seeds(
    pairs: Sequence[Pair],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    overlap: float = 0.0,
) -> Tested:
    """Return the mean over seeds of AUROC(candidate) − AUROC(reference), tested; one pair a seed.

    The mean varies with the trainings and with the patients. As of several readers of the same cases, with
    trainings in the readers' place (Obuchowski & Rockette, Commun. Stat. Simul. Comput. 1995), its variance
    is s²/n of the n seeds' differences, plus the covariance between two seeds that the patients have in
    common, by bootstrap: a resample draws the same patients for all networks. Each part has a limit of its
    own, t with n − 1 degrees of freedom and normal, and the interval's half width is the root of the sum of
    their squares (Zou & Donner, Stat. Med. 2008). One t with Satterthwaite's degrees of freedom, as is usual
    for many readers, rejects too often for two or three: where s² is too small by chance, they are too many.
    The p-value is the level at which the interval touches 0; it is never less than 1 / (resamples + 1).

    With a single seed the variation between trainings is not known, and not in the answer: it is of these two
    networks, on other patients. Where each seed has a split of its own, trainings share samples, and s²/n is
    too small: with `overlap`, the number of samples that were drawn but not trained on, over that of those
    trained on, it is s²(1/n + overlap) (Nadeau & Bengio, Machine Learning 2003).
    Raises `SearchError` where most resamples lack a class.
    """
    count = len(pairs)
    values, drawn = _differences(pairs, resamples, np.random.default_rng(seed))
    between = float(values.var(ddof=1)) if count > 1 else 0.0
    covariances = np.atleast_2d(np.cov(drawn, rowvar=False))
    shared = covariances[~np.eye(count, dtype=bool)] if count > 1 else covariances
    spread = _Spread(
        trainings=between * (1 / count + overlap), patients=max(0.0, float(shared.mean())), seeds=count
    )
    value = float(values.mean())
    half = spread.half_width(1 - confidence)
    # No difference of two AUROCs is beyond 1.
    found = Interval(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))
    return Tested(difference=found, p=_level(abs(value), spread, 1 / (resamples + 1)))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in their order (Holm, Scand. J. Statist. 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted, highest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted


def _level(value: float, spread: _Spread, least: float) -> float:
    """Return the alpha at which the half width is a value, from `least` to 1."""
    if value == 0:
        return 1.0
    if spread.half_width(least) <= value:
        return least
    return float(brentq(lambda alpha: spread.half_width(alpha) - value, least, 1.0))


def _differences(
    pairs: Sequence[Pair], resamples: int, generator: np.random.Generator
) -> tuple[Weights, Weights]:
    """Return each seed's difference [seeds], and those of resamples of patients [resamples, seeds]."""
    names = np.unique(np.concatenate([one.patients for one in pairs]))
    owners = [np.searchsorted(names, one.patients) for one in pairs]
    shares = np.full(len(names), 1 / len(names))
    step = max(1, CHUNK // max(len(names), *(len(owner) for owner in owners)))

    def of_each(patients: Weights) -> Weights:
        return np.stack(
            [_difference(one, patients[:, owner]) for one, owner in zip(pairs, owners, strict=True)], axis=1
        )

    drawn = []
    for start in range(0, resamples, step):
        times = generator.multinomial(len(names), shares, size=min(step, resamples - start))
        drawn.append(of_each(times.astype(np.float64)))
    every = np.concatenate(drawn)
    means = every.mean(axis=1)
    usable_of(means, patients=len(names), use="a test")
    return of_each(np.ones((1, len(names))))[0], every[np.isfinite(means)]


def _difference(pair: Pair, weights: Weights) -> Weights:
    candidate, reference = (auroc(pair.labels, one, weights) for one in (pair.candidate, pair.reference))
    return np.asarray(candidate - reference)

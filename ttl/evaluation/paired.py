"""Whether one method is better than another over several seeds: intervals and tests of paired AUROC.

Both patients and seeds are drawn anew: the question is of other patients and of another training, not of
these networks alone (Bouthillier et al., MLSys 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl.evaluation.metrics import Labels, Probabilities
from ttl.evaluation.statistics import CHUNK, Interval, Weights, auroc, percentile, usable_of


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


def compare_seeds(
    pairs: Sequence[Pair], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Tested:
    """Return the mean over seeds of AUROC(candidate) − AUROC(reference), tested; one pair a seed.

    A resample draws the patients, the same for both networks and for all seeds, and the seeds: one fewer
    than there are, so that their variance comes out unbiased (Rao & Wu, JASA 1988). A single seed is not
    drawn: the answer is then of these two networks. Seeds may have been scored on different samples. The
    p-value inverts the percentile interval (Efron & Tibshirani 1993); by (count + 1) / (resamples + 1) it is
    never 0.
    Raises `SearchError` where most resamples lack a class.
    """
    names = np.unique(np.concatenate([one.patients for one in pairs]))
    owners = [np.searchsorted(names, one.patients) for one in pairs]
    generator = np.random.default_rng(seed)
    shares = np.full(len(names), 1 / len(names))
    step = max(1, CHUNK // max(len(names), *(len(owner) for owner in owners)))
    count = len(pairs)

    def of_each(patients: Weights) -> Weights:
        return np.stack(
            [_difference(one, patients[:, owner]) for one, owner in zip(pairs, owners, strict=True)], axis=1
        )

    drawn = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        times = generator.multinomial(len(names), shares, size=size).astype(np.float64)
        seeds = generator.multinomial(max(1, count - 1), np.full(count, 1 / count), size=size)
        drawn.append((of_each(times) * seeds).sum(axis=1) / max(1, count - 1))
    usable = usable_of(np.concatenate(drawn), patients=len(names), use="a test")
    value = float(of_each(np.ones((1, len(names))))[0].mean())
    at_most, at_least = int((usable <= 0).sum()), int((usable >= 0).sum())
    p = min(1.0, 2 * (min(at_most, at_least) + 1) / (len(usable) + 1))
    return Tested(difference=percentile(value, usable, confidence), p=p)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in their order (Holm, Scand. J. Statist. 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted, highest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted


def _difference(pair: Pair, weights: Weights) -> Weights:
    candidate, reference = (auroc(pair.labels, one, weights) for one in (pair.candidate, pair.reference))
    return np.asarray(candidate - reference)

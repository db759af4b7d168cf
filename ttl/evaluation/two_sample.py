"""Maximum mean discrepancy between two samples of grouped observations (Gretton et al., JMLR 2012).

The kernel is Gaussian, exp(−d²/2b²), its bandwidth b the median distance. The estimate is the unbiased one
(their equation 3) by group: pairs within a group are left out, not a point's pair with itself alone, for
images of one patient resemble each other. So its mean is 0 if both samples come from the same patients'
population, however alike a patient's images are. It is below 0 about as often, then.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl.errors import TooFewError

Array = NDArray[np.float64]

SUBSAMPLE = 1000
"""Observations of which the median distance is taken."""


def squared_distances(x: Array, y: Array) -> Array:
    """Return the squared Euclidean distances [n, m] of observations [n, d] and [m, d]."""
    products = x @ y.T
    products *= -2
    products += (x**2).sum(axis=1)[:, None]
    products += (y**2).sum(axis=1)[None, :]
    return np.maximum(products, 0, out=products)


def median_distance(x: Array, *, seed: int = 0) -> float:
    """Return the median distance of pairs of distinct observations [n, d]; 1 where they are all alike."""
    if len(x) > SUBSAMPLE:
        x = x[np.random.default_rng(seed).choice(len(x), SUBSAMPLE, replace=False)]
    pairs = squared_distances(x, x)[np.triu_indices(len(x), 1)]
    apart = pairs[pairs > 1e-12 * max(float(pairs.max(initial=0)), 1e-300)]
    return float(np.sqrt(np.median(apart))) if len(apart) else 1.0


def gaussian(x: Array, y: Array, bandwidth: float) -> Array:
    """Return the kernel's values [n, m] of observations [n, d] and [m, d]."""
    values = squared_distances(x, y)
    values *= -0.5 / bandwidth**2
    return np.asarray(np.exp(values, out=values))


def mmd2(
    x: Array,
    y: Array,
    *,
    bandwidth: float,
    x_groups: ArrayLike | None = None,
    y_groups: ArrayLike | None = None,
) -> float:
    """Return the squared discrepancy of observations [n, d] and [m, d]; each its own group if none are given.

    A group must not stand on both sides. Raises `TooFewError` for a side of fewer than two groups.
    """
    between = gaussian(x, y, bandwidth).mean()
    return cross_mean(x, x_groups, bandwidth) + cross_mean(y, y_groups, bandwidth) - 2 * float(between)


def cross_mean(x: Array, groups: ArrayLike | None, bandwidth: float) -> float:
    """Return the mean of the kernel over pairs of observations [n, d] of different groups."""
    owner = owners(np.arange(len(x)) if groups is None else groups)
    values = gaussian(x, x, bandwidth)
    clear_within(values, owner)
    return float(values.sum()) / pairs_across(np.bincount(owner))


def owners(groups: ArrayLike) -> NDArray[np.int64]:
    """Return the number of each observation's group, counted from 0."""
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1], dtype=np.int64).reshape(-1)


def clear_within(values: Array, owner: NDArray[np.int64]) -> None:
    """Set the kernel's values [n, n] of pairs within a group to 0, in place."""
    order = np.argsort(owner, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        values[np.ix_(members, members)] = 0


def pairs_across(counts: NDArray[np.int64]) -> int:
    """Return how many ordered pairs are of two groups, of groups that have so many observations."""
    pairs = int(counts.sum()) ** 2 - int((counts**2).sum())
    if pairs == 0:
        raise TooFewError("one patient alone is no sample to compare; it takes two or more")
    return pairs


def effective(counts: NDArray[np.int64]) -> float:
    """Return how many groups of equal size tell as much as these (Kish 1965): (Σk)² / Σk²."""
    return float(counts.sum() ** 2 / (counts**2).sum())

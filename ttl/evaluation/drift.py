"""Whether a drop's images are like those a model was validated on: a test whose false alarms are counted.

Each **view** of the images is a table of numbers, one row an image: statistics of the pixels, the champion's
features at its cut, its outputs. A view's statistic is the discrepancy of `ttl.evaluation.two_sample` between
drop and reference, times the harmonic number of patients on the two sides, so that it does not grow or shrink
with their number where nothing has changed. Thresholds come from imitation drops: patients of the reference,
with as many images each as the drop's have, against the rest of it.

What a reference must be:

- Images that the champion was *not trained on*: its features and outputs on training images differ from those
  on any others, and every drop would seem to have drifted. The validation split is fit.
- Of the *site* that sends the drop. Against a mixture of sites each single one has drifted, and against other
  sites alone the alarm is right: the site is new.
- Ten patients at the very least; better several times the drop's.

An alarm says that images differ, not that the model fails: a change of prevalence is seen in outputs too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl.errors import DataError, TooFewError
from ttl.evaluation.two_sample import (
    Array,
    clear_within,
    cross_mean,
    effective,
    gaussian,
    median_distance,
    owners,
    pairs_across,
)

MIN_PATIENTS = 10
"""A reference of fewer gives no threshold."""


class Observed:
    """Images as numbers: `views` by name, each [n, d], and to whom each image belongs, [n].

    Raises `DataError` for views of different lengths, and for values that are not finite.
    """

    def __init__(self, views: Mapping[str, ArrayLike], patients: ArrayLike) -> None:
        self.owner = owners(patients)
        self.views: dict[str, Array] = {}
        for name, values in views.items():
            table = np.asarray(values, dtype=np.float64)
            table = table[:, None] if table.ndim == 1 else table.reshape(len(table), -1)
            if len(table) != len(self.owner):
                raise DataError(f"view {name} has {len(table)} rows for {len(self.owner)} images")
            if not np.isfinite(table).all():
                raise DataError(f"view {name} has values that are not finite: there is nothing to compare")
            self.views[name] = table
        if not self.views or not len(self.owner):
            raise DataError("there is nothing to compare: no view, or no image")

    @property
    def films(self) -> NDArray[np.int64]:
        """How many images each patient has, [patients]."""
        return np.bincount(self.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewScale:
    """How a view is measured: the reference's centre and scale by column, [d], and the kernel's bandwidth.

    `within` is the kernel's mean over the reference's pairs of patients, `null` the statistics of the
    imitation drops, sorted, and `threshold` what a statistic must exceed for an alarm.
    """

    centre: Array
    scale: Array
    bandwidth: float
    within: float
    null: Array
    threshold: float

    def apply(self, values: Array) -> Array:
        """Return observations [n, d] in units of the reference's deviation."""
        return (values - self.centre) / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Thresholds of all views, such that under no change *any* of them is exceeded with probability `alpha`.

    `level` is the probability of each view alone. `joint` are the imitation drops' smallest ranks over the
    views, 1 for the farthest, sorted. `imitated` is the number of patients in an imitation drop.
    """

    alpha: float
    level: float
    resamples: int
    imitated: int
    views: Mapping[str, ViewScale]
    joint: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDrift:
    """A view's statistic and its threshold; `rank` is the share of imitation drops that are no less far."""

    statistic: float
    threshold: float
    rank: float
    fired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """What is said of a drop; `rank` is the share of imitations whose most extreme view is no less so."""

    alpha: float
    rank: float
    views: Mapping[str, ViewDrift]
    images: int
    patients: int
    reference_images: int
    reference_patients: int
    resamples: int

    @property
    def drifted(self) -> bool:
        """Whether any view fires."""
        return any(view.fired for view in self.views.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"drifted": self.drifted, **asdict(self)}


def calibrate(
    reference: Observed,
    films: Sequence[int] | NDArray[np.int64],
    *,
    alpha: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Return thresholds for drops whose patients have `films` images each, [patients] (`Observed.films`).

    An imitation drop is of whole patients, at most half of the reference's; a larger drop is imitated by as
    many. The views' thresholds are at one level, found so that any of them is exceeded in `alpha` of the
    imitations (Westfall & Young 1993: the smallest of ranks, which are dependent).
    Raises `TooFewError` for a reference of too few patients, and for a drop of one.
    """
    counts = reference.films
    if len(counts) < MIN_PATIENTS:
        raise TooFewError(
            f"the reference has {len(counts)} patients; {MIN_PATIENTS} are the fewest that give a threshold: "
            "add validation data of the site"
        )
    if not 0 < alpha < 0.5 or resamples * alpha < len(reference.views):
        raise DataError(
            f"no threshold is exceeded in {alpha} of {resamples} resamples by any of {len(reference.views)} "
            "views; give more resamples, and an alpha below 0.5"
        )
    taken = _imitations(reference.owner, np.asarray(films, dtype=np.int64), resamples, seed)
    scales = {
        name: _prepare(values, reference.owner, taken, seed) for name, values in reference.views.items()
    }
    # Rank 1 is the farthest. A drop has one imitation more to compare with than an imitation has, so it fires
    # where one of rank `place` + 1 would, and not where the threshold itself is.
    ranks = np.stack([_ranks(scale.null) for scale in scales.values()], axis=1)
    smallest = np.sort(ranks.min(axis=1))
    place = int(smallest[round(alpha * resamples)]) - 2
    views = {}
    for name, scale in scales.items():
        null = np.sort(scale.null)
        views[name] = replace(scale, null=null, threshold=float(null[-1 - place]))
    return Calibration(
        alpha=alpha,
        level=(place + 1) / (resamples + 1),
        resamples=resamples,
        imitated=int((np.bincount(reference.owner, weights=taken[0]) > 0).sum()),
        views=views,
        joint=smallest,
    )


def assess(reference: Observed, drop: Observed, calibration: Calibration) -> DriftReport:
    """Compare a drop with the reference that the calibration was made from.

    Raises `TooFewError` for a drop of one patient, `DataError` for one that lacks a view.
    """
    lacking = set(calibration.views) ^ set(drop.views)
    if lacking:
        raise DataError(f"the drop and the calibration differ in their views: {', '.join(sorted(lacking))}")
    size = _harmonic(effective(drop.films), effective(reference.films))
    found: dict[str, ViewDrift] = {}
    for name, scale in calibration.views.items():
        theirs, ours = scale.apply(reference.views[name]), scale.apply(drop.views[name])
        between = float(gaussian(ours, theirs, scale.bandwidth).mean())
        statistic = size * (cross_mean(ours, drop.owner, scale.bandwidth) + scale.within - 2 * between)
        found[name] = ViewDrift(
            statistic=statistic,
            threshold=scale.threshold,
            rank=_share_as_far(scale.null, statistic),
            fired=statistic > scale.threshold,
        )
    smallest = round(min(view.rank for view in found.values()) * (1 + calibration.resamples))
    as_extreme = int((calibration.joint <= smallest).sum())
    return DriftReport(
        alpha=calibration.alpha,
        rank=(1 + as_extreme) / (1 + calibration.resamples),
        views=found,
        images=len(drop.owner),
        patients=len(drop.films),
        reference_images=len(reference.owner),
        reference_patients=len(reference.films),
        resamples=calibration.resamples,
    )


def _imitations(
    owner: NDArray[np.int64], films: NDArray[np.int64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return imitation drops as 1 for each image that is taken, [resamples, n]."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(owner)
    size = min(len(films), len(counts) // 2)
    start = np.concatenate([[0], counts.cumsum()[:-1]])
    taken = np.zeros((resamples, len(owner)))
    for row in taken:
        chosen = rng.choice(len(counts), size, replace=False)
        chosen = chosen[np.argsort(counts[chosen], kind="stable")]
        wanted = np.zeros_like(counts)
        wanted[chosen] = np.sort(rng.choice(films, size, replace=False))
        # A random order of each patient's images; the first so many are taken.
        order = np.lexsort((rng.random(len(owner)), owner))
        place = np.arange(len(owner)) - start[owner[order]]
        row[order] = place < wanted[owner[order]]
    return taken


def _prepare(values: Array, owner: NDArray[np.int64], taken: Array, seed: int) -> ViewScale:
    centre, scale = values.mean(axis=0), values.std(axis=0)
    # A column that is constant in the reference, or next to it, would make rounding errors into distances.
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(centre), 1), scale, 1.0)
    standard = (values - centre) / scale
    bandwidth = median_distance(standard, seed=seed)
    kernel = gaussian(standard, standard, bandwidth)
    clear_within(kernel, owner)
    within = float(kernel.sum()) / pairs_across(np.bincount(owner))
    null = _statistics(kernel, owner, taken)
    return ViewScale(
        centre=centre, scale=scale, bandwidth=bandwidth, within=within, null=null, threshold=math.inf
    )


def _statistics(kernel: Array, owner: NDArray[np.int64], taken: Array) -> Array:
    """Return the statistic of each imitation drop against the patients it does not touch, [resamples]."""
    patients = int(owner.max()) + 1
    belongs = np.zeros((len(owner), patients))
    belongs[np.arange(len(owner)), owner] = 1
    drawn = (taken @ belongs).astype(np.int64)
    counts = np.bincount(owner)
    rest = np.where(drawn == 0, counts, 0)
    others = (rest > 0)[:, owner].astype(np.float64)
    from_drop, from_rest = taken @ kernel, others @ kernel
    in_drop = (from_drop * taken).sum(axis=1)
    in_rest = (from_rest * others).sum(axis=1)
    between = (from_drop * others).sum(axis=1)
    found = [
        _harmonic(effective(ours), effective(theirs))
        * (a / pairs_across(ours) + b / pairs_across(theirs) - 2 * c / (ours.sum() * theirs.sum()))
        for ours, theirs, a, b, c in zip(drawn, rest, in_drop, in_rest, between, strict=True)
    ]
    return np.asarray(found)


def _harmonic(one: float, other: float) -> float:
    return one * other / (one + other)


def _ranks(values: Array) -> NDArray[np.int64]:
    """Return how many values are at least as large as each, [n]."""
    order = np.sort(values)
    return np.asarray(len(values) - np.searchsorted(order, values, side="left"), dtype=np.int64)


def _share_as_far(null: Array, statistic: float) -> float:
    as_far = len(null) - int(np.searchsorted(null, statistic, side="left"))
    return (1 + as_far) / (1 + len(null))

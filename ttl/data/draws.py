"""Samples drawn anew for an experiment: nested shares of the training data, and repeated splits.

Pure functions on labels, patients and content hashes, in the order of the samples' ids: what is drawn follows
the content of a dataset and a seed, and nothing else.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ttl.data import splits
from ttl.data.dataset import SPLITS
from ttl.data.stratify import stratify

Integers = NDArray[np.int64]


def nested_share(
    labels: Integers, patients: Sequence[str], *, classes: int, share: float, seed: int
) -> NDArray[np.bool_]:
    """Return which samples [n] belong to a share of them: whole patients, every class in its proportion.

    `labels` are [n], or [n, classes] of 0 and 1 where a sample may have several. For each class in turn, its
    patients come in an order that the seed and their names give; taken are the first of them, whose images
    come nearest to the share. So, with the same seed, a smaller share lies inside a larger one. A patient
    counts for the rarest class that he has. Where all patients of a class count for others, the first of them
    to come is in every share: none lacks a class.
    """
    names, owner = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    present = labels == 1 if labels.ndim == 2 else labels[:, None] == np.arange(classes)
    rarest_first = np.argsort(present.sum(axis=0), kind="stable")
    has = np.zeros((len(names), classes), dtype=bool)
    np.logical_or.at(has, owner, present)
    # Whoever has no class is a stratum too: the last.
    place = np.where(has.any(axis=1), has[:, rarest_first].argmax(axis=1), classes)
    sizes = np.bincount(owner, minlength=len(names))
    order = np.argsort([hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in names])
    taken, middle = np.zeros(len(names), dtype=bool), np.zeros(len(names))
    for stratum in np.unique(place):
        members = order[place[order] == stratum]
        reached = np.cumsum(sizes[members])
        count = int(np.abs(reached - share * reached[-1]).argmin()) + 1
        taken[members[:count]] = True
        # A patient is taken by shares over the middle of his images; the first is by any.
        middle[members[1:]] = (reached[1:] - sizes[members[1:]] / 2) / reached[-1]
    for one in np.flatnonzero(has.any(axis=0)):
        # A larger share has this patient anyhow, so that shares stay nested.
        having = order[has[order, one]]
        taken[having[middle[having].argmin()]] = True
    return np.asarray(taken[owner])


def redraw(
    labels: Integers,
    patients: Sequence[str],
    hashes: Sequence[str],
    sides: Sequence[str],
    *,
    classes: Sequence[str],
    seed: int,
) -> list[str]:
    """Return new sides of samples, as many on each as there were, by `seed`.

    No patient and no identical image stands on two sides, and every class is on each in its proportion.
    Raises `DataError` where a side would lack a class.
    """
    counts: Mapping[str, int] = {side: list(sides).count(side) for side in SPLITS if side in sides}
    groups = splits.group(list(patients), hashes)
    fractions = [count / len(sides) for count in counts.values()]
    if labels.ndim == 2:
        drawn = stratify(labels, groups, fractions=fractions, seed=seed)
    else:
        drawn = splits.assign(labels, groups, classes=len(classes), fractions=fractions, seed=seed)
    return [list(counts)[side] for side in drawn]

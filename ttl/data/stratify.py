"""Dividing images that have several labels: whole groups, every label in its share on every side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttl.data.dataset import SPLITS
from ttl.data.labels import ABSENT, PRESENT
from ttl.errors import DataError

Integers = NDArray[np.int64]


def stratify(labels: Integers, groups: Integers, *, fractions: Sequence[float], seed: int) -> Integers:
    """Return the side, 0 to len(fractions) − 1, of each sample with labels [n, classes] in groups [n].

    Iterative stratification (Sechidis et al., ECML 2011), with whole groups in place of samples: of all that
    is to be shared out, which is each label's presence and its absence, the rarest comes first, and each of
    its groups goes to the side that lacks most of it. Lacking is relative to what the side should have, and
    large groups come before small ones, in an order that `seed` shuffles among equals: so no side is filled
    with large groups alone. What is not known counts for nothing. At last, every side that lacks a label's
    presence or absence is given a group that has it, where another side can spare one.
    """
    numbers = int(groups.max(initial=-1)) + 1
    evidence = np.hstack([labels == PRESENT, labels == ABSENT]).astype(np.int64)
    counts = np.zeros((numbers, evidence.shape[1]), dtype=np.int64)
    np.add.at(counts, groups, evidence)
    sizes = np.bincount(groups, minlength=numbers)
    shares = np.asarray(fractions)
    wanted = np.outer(shares, np.maximum(counts.sum(axis=0), 1))
    lacking, room = wanted.copy(), shares * sizes.sum()
    order = np.random.default_rng(seed).permutation(numbers)
    side_of = np.full(numbers, -1, dtype=np.int64)

    def place(group: int, wish: NDArray[np.float64]) -> None:
        # Of sides that wish for it alike, the one with the most room.
        side = int(np.lexsort((room, wish))[-1])
        side_of[group] = side
        lacking[side] -= counts[group]
        room[side] -= sizes[group]

    while (left := side_of < 0).any():
        remaining = counts[left].sum(axis=0)
        if not remaining.any():
            break
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        have = order[left[order] & (counts[order, rarest] > 0)]
        for group in have[np.argsort(-counts[have, rarest], kind="stable")]:
            place(group, lacking[:, rarest] / wanted[:, rarest])
    for group in order[side_of[order] < 0]:
        place(group, room)
    complete(counts, side_of, order[np.argsort(-sizes[order], kind="stable")], sides=len(shares))
    return side_of[groups]


def complete(counts: Integers, side_of: Integers, order: Integers, *, sides: int) -> None:
    """Move groups, in place, to sides that lack a column of counts [groups, columns].

    It is the last in `order` that its own side can spare.
    """
    has = counts > 0
    held = np.stack([has[side_of == side].sum(axis=0) for side in range(sides)])
    smallest_first = order[::-1]
    for side, label in np.argwhere(held == 0):
        if held[side, label]:
            continue
        for index in smallest_first[has[smallest_first, label]]:
            if (held[side_of[index], has[index]] > 1).all():
                held[side_of[index]] -= has[index]
                held[side] += has[index]
                side_of[index] = side
                break


def check_labels(labels: Integers, names: Sequence[str], *, classes: Sequence[str]) -> list[str]:
    """Return sentences on labels [n, classes] that cannot be scored on a side of a split.

    Raises `DataError` where a split is empty or none of its labels can be scored, and where a label cannot be
    learnt, for the training images all have it, or none.
    """
    sides = np.asarray(names)
    notes = []
    for split in SPLITS:
        here = labels[sides == split]
        if not len(here):
            raise DataError(f"the split {split} is empty: add samples or patients, or give other fractions")
        present, absent = (here == PRESENT).sum(axis=0), (here == ABSENT).sum(axis=0)
        lacking = [
            f"{name} ({'never present' if there == 0 else 'never absent'})"
            for name, there, not_there in zip(classes, present, absent, strict=True)
            if not there or not not_there
        ]
        if lacking and split == "train":
            raise DataError(
                f"the split train cannot teach {', '.join(lacking)}: add samples or patients, leave the "
                "label out, give other fractions, or correct the given split"
            )
        if len(lacking) == len(classes):
            raise DataError(f"none of the labels can be scored in the split {split}: {', '.join(lacking)}")
        if lacking:
            notes.append(f"Not scored in the split {split}, and left out of its means: {', '.join(lacking)}.")
    return notes


def count_labels(
    labels: Integers, names: Sequence[str], *, classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return the samples of each split in which a class is present."""
    sides = np.asarray(names)
    return {
        split: dict(zip(classes, (labels[sides == split] == PRESENT).sum(axis=0).tolist(), strict=True))
        for split in SPLITS
    }

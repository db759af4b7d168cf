"""Who trains, who validates, who tests: pure functions on labels, patients and content hashes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ttl.data.dataset import SPLITS
from ttl.data.labels import Label
from ttl.data.stratify import check_labels, complete, count_labels, stratify
from ttl.errors import DataError

Integers = NDArray[np.int64]

SHOWN = 5
"""So many patients or files are named in a message; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The split of each sample, and sentences for people on what was found."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def divide(
    labels: Sequence[Label],
    patients: Sequence[str | None],
    hashes: Sequence[str],
    *,
    classes: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> Split:
    """Divide samples so that no patient and no identical image stands on two sides, stratified by label.

    Raises `DataError` where a split would lack a class, or where several labels could not be learnt.
    """
    groups = group(patients, hashes)
    numbers = np.asarray(labels, dtype=np.int64)
    shares = list(fractions.values())
    if numbers.ndim == 2:
        sides = stratify(numbers, groups, fractions=shares, seed=seed)
    else:
        sides = assign(numbers, groups, classes=len(classes), fractions=shares, seed=seed)
    names = tuple(list(fractions)[side] for side in sides)
    notes = check_classes(labels, names, classes=classes)
    return Split(names=names, notes=(*notes, *duplicate_notes(labels, hashes)))


def keep(
    labels: Sequence[Label],
    patients: Sequence[str | None],
    hashes: Sequence[str],
    given: Sequence[str],
    *,
    classes: Sequence[str],
) -> Split:
    """Return a given split as it is; identical images on two sides of it are reported in the notes.

    Raises `DataError` where a patient stands on two sides, or a split is empty or lacks a class.
    """
    check_patients(patients, given)
    scored = check_classes(labels, given, classes=classes)
    notes = [*scored, *leak_notes(hashes, given), *duplicate_notes(labels, hashes)]
    return Split(names=tuple(given), notes=tuple(notes))


def group(patients: Sequence[str | None], hashes: Sequence[str]) -> Integers:
    """Return a number for each sample: equal for samples that a patient or identical pixels bind together.

    The bond is transitive: two patients who share an image are in one group. Numbers count up from 0 in the
    order of first appearance.
    """
    people = _codes(
        [("p", patient) if patient is not None else ("i", i) for i, patient in enumerate(patients)]
    )
    images = _codes(hashes)
    count, nodes = len(images), int(people.max(initial=-1)) + 1
    edges = coo_array(
        (np.ones(count, dtype=np.int8), (people, nodes + images)), shape=(nodes + count, nodes + count)
    )
    components = connected_components(edges, directed=False)[1][people]
    return _codes(components.tolist())


def assign(
    labels: Integers, groups: Integers, *, classes: int, fractions: Sequence[float], seed: int
) -> Integers:
    """Return the side, 0 to len(fractions) − 1, of each sample: whole groups, every class in its share.

    Large groups first, in an order that `seed` shuffles among equals; each goes where the squared distance
    to the wanted counts, relative to them, grows least. Then every side that lacks a class is given a group
    that has it, where another side can spare one.
    """
    counts = np.zeros((int(groups.max(initial=-1)) + 1, classes), dtype=np.int64)
    np.add.at(counts, (groups, labels), 1)
    wanted = np.outer(fractions, np.maximum(counts.sum(axis=0), 1))
    sizes = counts.sum(axis=1)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    have = np.zeros_like(wanted)
    side_of = np.zeros(len(counts), dtype=np.int64)
    for index in order:
        present = np.flatnonzero(counts[index])
        more = counts[index, present]
        growth = (more * (2 * (have[:, present] - wanted[:, present]) + more) / wanted[:, present]).sum(
            axis=1
        )
        side = int(growth.argmin())
        side_of[index] = side
        have[side, present] += more
    complete(counts, side_of, order, sides=len(fractions))
    return side_of[groups]


def _codes(values: Sequence[Hashable]) -> Integers:
    """Return a number for each value, equal for equal values, from 0 in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def check_classes(labels: ArrayLike, names: Sequence[str], *, classes: Sequence[str]) -> list[str]:
    """Raise `DataError` where a split is empty or lacks a class; for several labels see `check_labels`."""
    numbers = np.asarray(labels, dtype=np.int64)
    if numbers.ndim == 2:
        return check_labels(numbers, names, classes=classes)
    counts = count(numbers, names, classes=classes)
    lacking = []
    for split in SPLITS:
        if not any(counts[split].values()):
            lacking.append(f"the split {split} is empty")
        else:
            lacking += [
                f"class {c!r} has no sample in the split {split}" for c, n in counts[split].items() if not n
            ]
    if lacking:
        totals = ", ".join(f"{c}: {sum(counts[s][c] for s in SPLITS)}" for c in classes)
        raise DataError(
            f"{'; '.join(lacking)} (samples in all: {totals}). Every split needs every class: add samples or "
            "patients, drop the class, give other fractions, or correct the given split"
        )
    return []


def check_patients(patients: Sequence[str | None], names: Sequence[str]) -> None:
    """Raise `DataError` where a patient stands on two sides of a given split."""
    frame = pl.DataFrame(
        {"patient": patients, "split": names}, schema={"patient": pl.String, "split": pl.String}
    )
    torn = (
        frame.drop_nulls("patient")
        .unique(maintain_order=True)
        .group_by("patient", maintain_order=True)
        .agg("split")
        .filter(pl.col("split").list.len() > 1)
    )
    if len(torn):
        shown = "; ".join(f"{p} in {' and '.join(_ordered(s))}" for p, s in torn.head(SHOWN).iter_rows())
        more = f"; and {len(torn) - SHOWN} more" if len(torn) > SHOWN else ""
        stand = "patients stand" if len(torn) > 1 else "patient stands"
        raise DataError(
            f"{len(torn)} {stand} on two sides of the given split: {shown}{more}. "
            "Move all images of a patient to one side, or drop the split column"
        )


def leak_notes(hashes: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a sentence for each pair of sides of a split that share identical images."""
    sets = {split: {h for h, n in zip(hashes, names, strict=True) if n == split} for split in SPLITS}
    notes = []
    for i, one in enumerate(SPLITS):
        for other in SPLITS[i + 1 :]:
            shared = len(sets[one] & sets[other])
            if shared:
                notes.append(
                    f"{shared} image{'s occur' if shared > 1 else ' occurs'} in both {one} and {other} "
                    "of the given split, which is kept as it is."
                )
    return notes


def duplicate_notes(labels: Sequence[Label], hashes: Sequence[str]) -> list[str]:
    """Return sentences on identical images, and on those among them with different labels."""
    distinct = len(set(hashes))
    notes = []
    if distinct < len(hashes):
        notes.append(f"{len(hashes)} samples are {distinct} distinct images; the others are exact copies.")
    torn = len(set(zip(hashes, labels, strict=True))) - distinct
    if torn:
        notes.append(f"{torn} of the identical images carr{'y' if torn > 1 else 'ies'} different labels.")
    return notes


def count(labels: ArrayLike, names: Sequence[str], *, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the samples of each split and class; a sample with several labels counts in each of them."""
    numbers = np.asarray(labels, dtype=np.int64)
    if numbers.ndim == 2:
        return count_labels(numbers, names, classes=classes)
    table = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    for label, name in zip(numbers.tolist(), names, strict=True):
        table[name][classes[label]] += 1
    return table


def _ordered(splits: Sequence[str]) -> list[str]:
    return sorted(splits, key=SPLITS.index)

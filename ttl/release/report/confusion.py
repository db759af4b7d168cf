"""The confusion matrix: what each class was taken for, in counts and shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttl.evaluation.metrics import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Images of one class that were taken for one class, and their share of that class's images."""

    images: int
    share: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One class's images: `cells` by the class that was predicted."""

    name: str
    images: int
    cells: tuple[Cell, ...]


def matrix(labels: Labels, predicted: Labels, classes: Sequence[str]) -> list[Row]:
    """Return a row a class, of labels [n] and predicted classes [n]."""
    count = len(classes)
    table = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    return [
        Row(
            name=name,
            images=int(counts.sum()),
            cells=tuple(
                Cell(images=int(one), share=float(one) / max(int(counts.sum()), 1), right=actual == taken)
                for taken, one in enumerate(counts)
            ),
        )
        for actual, (name, counts) in enumerate(zip(classes, table, strict=True))
    ]


def of_label(found: Labels, predicted: Labels, name: str) -> list[Row]:
    """Return the two rows of one label of several: absent and present, of known answers [n] (1 or 0)."""
    return matrix(found, predicted, (f"no {name}", name))

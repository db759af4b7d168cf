"""What the chosen network and the reference say of the test images, as the page's figures need it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.evaluation.metrics import Labels, Probabilities, decide
from ttl.search import results, scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The test split, and what two networks say of it.

    `samples` and `patients` [n]. `labels` [n], or of several labels at once [n, classes]: 1 present, 0
    absent, -1 not known. Probabilities [n, classes]. A threshold holds for the second class of a binary task,
    or there is one a label. `same` says that the reference itself was chosen.
    """

    classes: tuple[str, ...]
    samples: tuple[str, ...]
    patients: NDArray[np.str_]
    labels: Labels
    chosen: Probabilities
    reference: Probabilities
    thresholds: tuple[float, ...] | None
    same: bool

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    @property
    def binary(self) -> bool:
        """Whether the second of two classes is looked for."""
        return not self.multilabel and len(self.classes) == 2

    @property
    def predicted(self) -> Labels:
        """The chosen network's classes: [n], or of several labels at once 1 or 0 [n, classes]."""
        if self.multilabel:
            cuts = self.thresholds or (0.5,) * len(self.classes)
            return (self.chosen >= np.array(cuts)).astype(np.int64)
        return decide(self.chosen, self.thresholds[0] if self.thresholds else None)

    def found(self, number: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which images have a class, [n], and of which it is known, [n]."""
        if self.multilabel:
            return self.labels[:, number] == 1, self.labels[:, number] >= 0
        return self.labels == number, np.ones(len(self.labels), dtype=bool)


def read_scored(folder: Path, name: str, selection: Mapping[str, Any]) -> Scored | str:
    """Return the test split as both networks of a selection scored it, or why it cannot be told."""
    path = folder / results.PREDICTIONS / f"{name}.parquet"
    if not path.is_file():
        return (
            f"{path} does not exist; `ttl sweep` (or `dvc repro`) makes it, without training anything again"
        )
    table = pl.read_parquet(path).filter(pl.col("split") == "test")
    figures = selection["figures"]
    ids = {role: figures[role]["trial_id"] for role in scored.ROLES}
    known = {
        role: table.filter(pl.col("trial_id") == one).sort("sample_id", maintain_order=True)
        for role, one in ids.items()
    }
    ours, theirs = known["chosen"], known["reference"]
    if not ours.height or ours["sample_id"].to_list() != theirs["sample_id"].to_list():
        return f"{path} is of another sweep than selection.json: it lacks trials of it; run `ttl sweep`"
    return Scored(
        classes=tuple(selection["data"]["classes"]),
        samples=tuple(ours["sample_id"].to_list()),
        patients=ours["patient_id"].to_numpy().astype(np.str_),
        labels=ours["label"].to_numpy().astype(np.int64),
        chosen=np.array(ours["scores"].to_list(), dtype=np.float64),
        reference=np.array(theirs["scores"].to_list(), dtype=np.float64),
        thresholds=_thresholds(figures["chosen"]),
        same=ids["chosen"] == ids["reference"],
    )


def _thresholds(figures: Mapping[str, Any]) -> tuple[float, ...] | None:
    found = figures.get("thresholds", figures.get("threshold"))
    if found is None:
        return None
    return tuple(found) if isinstance(found, list) else (float(found),)

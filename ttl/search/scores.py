"""Models' predictions side by side, on the patients and labels that a comparison can rest on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.data.labels import ABSENT, PRESENT, to_array
from ttl.errors import SearchError
from ttl.evaluation.labels import scorable

Predictions = Callable[[str], pl.DataFrame]
"""From a trial's id to its predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A model's predictions on one split: probabilities [seeds, n, classes] of the same n samples.

    `labels` are [n], or [n, classes] where an image may have several.
    """

    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    samples: tuple[str, ...]
    probabilities: NDArray[np.float64]

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @property
    def fewest_patients(self) -> int:
        """The number of patients of the class that has the fewest.

        Of several labels that can be scored: of those who have one, or who lack one.
        """
        if self.several:
            counts = patients_by_label(self.labels, self.patients)[:, scorable(self.labels)]
            return int(counts.min(initial=len(self.patients)))
        return min(len(set(self.patients[self.labels == one])) for one in np.unique(self.labels))

    def of(self, judged: NDArray[np.bool_] | None) -> "Scores":
        """Return the scores of these labels alone, [classes]; None stands for all."""
        if judged is None or judged.all():
            return self
        return replace(self, labels=self.labels[:, judged], probabilities=self.probabilities[..., judged])


def read_scores(trial_ids: Sequence[str], predictions: Predictions, split: str) -> Scores:
    """Return the predictions of a model's trials on a split.

    Raises `SearchError` if they are not of the same samples.
    """
    tables = [
        predictions(trial_id).filter(pl.col("split") == split).sort("sample_id") for trial_id in trial_ids
    ]
    samples = [tuple(table["sample_id"].to_list()) for table in tables]
    if len(set(samples)) != 1:
        raise SearchError(f"trials {', '.join(trial_ids)} were not scored on the same {split} samples")
    return Scores(
        labels=to_array(tables[0]["label"]),
        patients=tables[0]["patient_id"].to_numpy(),
        samples=samples[0],
        probabilities=np.stack([np.array(table["scores"].to_list()) for table in tables]),
    )


def patients_by_label(labels: NDArray[np.int64], patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return of labels [n, classes] how many patients have an image with it, and without: [2, classes]."""
    return np.array(
        [
            [len(np.unique(patients[labels[:, label] == side])) for label in range(labels.shape[1])]
            for side in (PRESENT, ABSENT)
        ]
    )


def judged_labels(
    labels: NDArray[np.int64], patients: NDArray[np.str_], least: int
) -> NDArray[np.bool_] | None:
    """Return the labels [classes] that a comparison can rest on; None where an image has one class.

    Those that at least so many patients have, and so many lack; where there is none, those that can be
    scored.
    """
    if labels.ndim == 1:
        return None
    enough: NDArray[np.bool_] = np.asarray((patients_by_label(labels, patients) >= least).all(axis=0))
    return enough if enough.any() else scorable(labels)


def judged_in_test(scores: Scores, judged: NDArray[np.bool_] | None, least: int) -> NDArray[np.bool_] | None:
    """Return those of the labels judged in validation that the test split has enough patients of.

    Where it has of none, those that can be scored there.
    """
    if judged is None:
        return None
    enough = judged & (patients_by_label(scores.labels, scores.patients) >= least).all(axis=0)
    can = scorable(scores.labels)
    return next((kept for kept in (enough, judged & can) if kept.any()), can)

"""Of several labels: each one's figures, and sentences on those that a comparison leaves out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl.evaluation.labels import scorable
from ttl.evaluation.statistics import interval, metrics_at
from ttl.search.scores import Scores, patients_by_label

Judged = NDArray[np.bool_] | None

METRICS = ("auroc", "auprc", "sensitivity", "specificity", "ece")


def label_figures(
    scores: Mapping[str, Scores],
    judged: Mapping[str, Judged],
    thresholds: Sequence[float],
    seed: int,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return each label's threshold, patients who have it, and metrics, by split; `seed` is the place of one.

    A label that a comparison leaves out has its value without an interval, and None where it has no value.
    """
    rows = []
    for label, threshold in enumerate(thresholds):
        row: dict[str, Any] = {"label": label, "threshold": threshold}
        for split, whole in scores.items():
            one = whole.of(np.arange(len(thresholds)) == label)
            kept = judged[split]
            row[split] = {
                "patients": int(patients_by_label(one.labels, one.patients)[0, 0]),
                **_figures(one, threshold, seed, settings, sure=kept is not None and bool(kept[label])),
            }
        rows.append(row)
    return rows


def _figures(
    scores: Scores, threshold: float, seed: int, settings: Mapping[str, Any], *, sure: bool
) -> dict[str, Any]:
    if not scorable(scores.labels).any():
        return dict.fromkeys(METRICS)
    metrics, probabilities = metrics_at((threshold,), 1), scores.probabilities[seed]
    found: dict[str, Any] = {}
    for name in METRICS:
        if sure:
            known = interval(metrics[name], scores.labels, probabilities, scores.patients, **settings)
            found[name] = dataclasses.asdict(known)
        else:
            once = np.ones((1, len(scores.labels)))
            value = float(metrics[name](scores.labels, probabilities, once)[0])
            found[name] = {"value": value, "low": None, "high": None}
    return found


def label_notes(judged: Judged, in_test: Judged, classes: Sequence[str] | None, patients: int) -> list[str]:
    """Return sentences on the labels that validation, or the test split, has too few patients of."""
    if judged is None or in_test is None:
        return []
    names = classes or [f"label {number}" for number in range(len(judged))]

    def listed(mask: NDArray[np.bool_]) -> str:
        return ", ".join(name for name, there in zip(names, mask, strict=True) if there)

    found = []
    if not judged.all():
        found.append(
            f"Models are compared by the mean over {listed(judged)}. In the validation split, fewer than "
            f"{patients} patients have, or lack: {listed(~judged)}"
        )
    if (judged & ~in_test).any():
        found.append(f"Too few patients of the test split have, or lack: {listed(judged & ~in_test)}")
    return found


def judged_entry(judged: Judged, in_test: Judged) -> dict[str, dict[str, list[int]]]:
    """Return the numbers of the labels that means are over, by split, as `selection.json` has them."""
    if judged is None or in_test is None:
        return {}
    kept = {"validation": judged, "test": in_test}
    return {"labels": {split: np.flatnonzero(mask).tolist() for split, mask in kept.items()}}

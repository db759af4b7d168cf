"""What the page says of the chosen network on the test split: at every threshold, and at its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl.evaluation.reliability import binned, reliability
from ttl.release.report import operating
from ttl.release.report.calibration import diagram
from ttl.release.report.confusion import matrix
from ttl.release.report.roles import CHOSEN, NAMES, REFERENCE, lines
from ttl.release.report.scores import Scored

MOST_PANELS = 8
"""Classes whose curves are drawn; the table has all."""


def on_test(tested: Scored, figures: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Return the figures and tables of both networks on the test split; `figures` are the selection's."""
    one_answer = not tested.multilabel
    numbers = [1] if tested.binary else list(range(len(tested.classes)))
    scored = [number for number in numbers if _can_be_scored(tested, number)]
    return {
        "same": tested.same,
        "images": len(tested.samples),
        "patients": len(np.unique(tested.patients)),
        "binary": tested.binary,
        "multilabel": tested.multilabel,
        "threshold": tested.thresholds[0] if tested.binary and tested.thresholds else None,
        "seed": figures["chosen"].get("seed"),
        "finding": tested.classes[1] if tested.binary else "",
        "ece": {role: figures[role].get("test", {}).get("ece") for role in ("chosen", "reference")},
        "curves": _curves(tested, scored[:MOST_PANELS], name),
        "undrawn": len(scored[MOST_PANELS:]),
        "unscored": [tested.classes[number] for number in numbers if number not in scored],
        "calibration": Markup(_calibration(tested, name)),
        "rows": matrix(tested.labels, tested.predicted, tested.classes) if one_answer else [],
        "classes": tested.classes,
        "by_class": [] if tested.binary else [_of_class(tested, n) for n in range(len(tested.classes))],
    }


def _can_be_scored(tested: Scored, number: int) -> bool:
    found, known = tested.found(number)
    return _both(found[known])


def _curves(tested: Scored, numbers: Sequence[int], name: str) -> list[Markup]:
    drawn = []
    for number in numbers:
        found, known = tested.found(number)
        shown = lines(tested, number, known)
        title = tested.classes[number]
        drawn.append(Markup(operating.roc(found[known], shown, name=f"{name}-roc-{number}", title=title)))
        if tested.binary:
            text = operating.precision_recall(found[known], shown, name=f"{name}-pr-{number}", title=title)
            drawn.append(Markup(text))
    return drawn


def _calibration(tested: Scored, name: str) -> str:
    looks = {NAMES[0]: CHOSEN} if tested.same else {NAMES[1]: REFERENCE, NAMES[0]: CHOSEN}
    scores = {NAMES[0]: tested.chosen, NAMES[1]: tested.reference}
    if tested.multilabel:
        known = tested.labels >= 0
        bins = {one: binned(tested.labels[known] == 1, scores[one][known]) for one in looks}
        words = ("probability of a label", "share that has it")
    else:
        bins = {one: reliability(tested.labels, scores[one]) for one in looks}
        finding = tested.classes[1] if tested.binary else ""
        words = (
            (f"probability of {finding}", f"share of {finding}")
            if tested.binary
            else ("probability of the likeliest class", "share that was right")
        )
    counted = "labels" if tested.multilabel else "images"
    return diagram(
        bins,
        looks=looks,
        predicted=words[0],
        found=words[1],
        counted=counted,
        name=f"{name}-reliability",
        label=f"Reliability: {words[1]} against the {words[0]}, on {len(tested.samples)} test images",
    )


def _of_class(tested: Scored, number: int) -> dict[str, Any]:
    found, known = tested.found(number)
    present = found[known]
    said = (tested.predicted[:, number] == 1 if tested.multilabel else tested.predicted == number)[known]
    row: dict[str, Any] = {
        "name": tested.classes[number],
        "images": int(known.sum()),
        "present": int(present.sum()),
        "threshold": tested.thresholds[number] if tested.multilabel and tested.thresholds else None,
        "hits": int((said & present).sum()),
        "missed": int((~said & present).sum()),
        "false": int((said & ~present).sum()),
        "sensitivity": _share(said, present),
        "specificity": _share(~said, ~present),
        "precision": _share(present, said),
    }
    for role, scores in (("chosen", tested.chosen), ("reference", tested.reference)):
        mine = scores[known, number]
        row[f"{role}_auroc"] = float(roc_auc_score(present, mine)) if _both(present) else None
        row[f"{role}_auprc"] = float(average_precision_score(present, mine)) if _both(present) else None
    return row


def _both(present: NDArray[np.bool_]) -> bool:
    return bool(present.any() and not present.all())


def _share(hits: NDArray[np.bool_], of: NDArray[np.bool_]) -> float | None:
    return float(hits[of].mean()) if of.any() else None

"""From a network's logits to its figures, by the task: one class an image, or several labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl.data.dataset import Task
from ttl.evaluation import labels as several
from ttl.evaluation import metrics as one
from ttl.evaluation.metrics import Labels, Metrics, Probabilities

Threshold = float | Sequence[float] | None
"""On the probability of a binary task's second class; one a label where there are several; else none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What a task makes of logits [n, classes], float64, and of labels [n] or [n, classes].

    `decide` gives the predicted classes [n], or 0 and 1 for each label [n, classes].
    """

    probabilities: Callable[[NDArray[np.float64]], Probabilities]
    auroc: Callable[[Labels, Probabilities], float]
    choose_threshold: Callable[[Labels, Probabilities], Threshold]
    decide: Callable[[Probabilities, Any], Labels]
    evaluate: Callable[[Labels, Probabilities, Any], Metrics]


ONE_CLASS = Scoring(
    probabilities=one.softmax,
    auroc=one.auroc,
    choose_threshold=one.choose_threshold,
    decide=one.decide,
    evaluate=lambda labels, probabilities, threshold: one.evaluate(
        labels, probabilities, threshold=threshold
    ),
)

SEVERAL_LABELS = Scoring(
    probabilities=several.sigmoid,
    auroc=several.mean_auroc,
    choose_threshold=several.choose_thresholds,
    decide=several.decide_labels,
    evaluate=lambda labels, probabilities, thresholds: several.evaluate_labels(
        labels, probabilities, thresholds=thresholds
    ),
)


def scoring_of(task: Task) -> Scoring:
    """Return how a task is scored."""
    return SEVERAL_LABELS if task == "multilabel" else ONE_CLASS

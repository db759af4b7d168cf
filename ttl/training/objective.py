"""What training minimises, by the task: cross-entropy of one class, or of several labels each by itself.

Both are sums over a part of a batch, so that parts and processes add up to the batch; `amount` is what the
batch's sum is divided by.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ttl.data.dataset import Task
from ttl.data.labels import ABSENT, NOT_KNOWN, PRESENT
from ttl.errors import TrialError
from ttl.evaluation.labels import weighted_bce
from ttl.evaluation.metrics import weighted_log_loss
from ttl.training.batches import class_weights

Labels = NDArray[np.int64]


class Objective(Protocol):
    """A loss, whose weights [classes] follow from the training labels."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """What each class, or each present label, counts."""

    def amount(self, labels: Labels) -> float:
        """Return what the summed loss of these labels is divided by."""

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the summed loss of logits [n, classes]; `weights` are those here, on its device."""

    def mean(self, labels: Labels, logits: NDArray[np.float64]) -> float:
        """Return the loss of logits [n, classes], by the same weights, divided by its amount."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Cross-entropy of labels [n], each class weighted inversely to its frequency."""

    weights: NDArray[np.float64]

    def amount(self, labels: Labels) -> float:
        """Return the labels' summed weight."""
        return float(self.weights[labels].sum())

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the summed, weighted cross-entropy."""
        return F.cross_entropy(logits, labels, weight=weights, reduction="sum")

    def mean(self, labels: Labels, logits: NDArray[np.float64]) -> float:
        """Return the weighted mean."""
        return weighted_log_loss(labels, logits, self.weights)


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of labels [n, classes]; a present one counts as its label's weight says.

    What is not known has no loss.
    """

    weights: NDArray[np.float64]

    def amount(self, labels: Labels) -> float:
        """Return the number of labels that are known; a batch of none divides nothing, by 1."""
        return float(max(1, (labels != NOT_KNOWN).sum()))

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the summed binary cross-entropy of what is known."""
        truth = (labels == PRESENT).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights, reduction="none")
        # Not a product with the mask: infinity times 0 is no number.
        return torch.where(labels != NOT_KNOWN, each, 0.0).sum()

    def mean(self, labels: Labels, logits: NDArray[np.float64]) -> float:
        """Return the mean over the labels that are known."""
        return weighted_bce(labels, logits, self.weights)


def make_objective(task: Task, labels: Labels, classes: int, *, weighted: bool) -> Objective:
    """Return the objective of a task; its weights are of the training labels, [n] or [n, classes].

    Without `weighted` all weights are 1.
    """
    if task == "multilabel":
        return BinaryCrossEntropy(positive_weights(labels, weighted=weighted))
    return CrossEntropy(class_weights(labels, classes, weighted=weighted))


def positive_weights(labels: Labels, *, weighted: bool) -> NDArray[np.float64]:
    """Return of labels [n, classes] how many times more often each is absent than present, where known.

    So both together weigh alike. Raises `TrialError` for a label that is always present, or never.
    """
    present, absent = (labels == PRESENT).sum(axis=0), (labels == ABSENT).sum(axis=0)
    one_sided = np.flatnonzero((present == 0) | (absent == 0))
    if len(one_sided):
        which = int(one_sided[0])
        raise TrialError(
            f"label number {which} is {'never' if present[which] == 0 else 'always'} present in the "
            "training images"
        )
    return np.asarray(absent / present) if weighted else np.ones(labels.shape[1])

"""The losses against torch's own; what is not known has no loss and no gradient; parts add up to batches."""

import numpy as np
import pytest
import torch
from torch.nn import BCEWithLogitsLoss, CrossEntropyLoss

from ttl.errors import TrialError
from ttl.training.objective import BinaryCrossEntropy, CrossEntropy, make_objective, positive_weights


def batch(n=40, classes=3, unknown=0.3):
    rng = np.random.default_rng(0)
    labels = (rng.random((n, classes)) < [0.5, 0.2, 0.1]).astype(np.int64)
    labels[rng.random(labels.shape) < unknown] = -1
    return labels, torch.from_numpy(rng.normal(size=labels.shape)).float().requires_grad_()


def test_positive_weights_are_negatives_per_positive_of_what_is_known():
    labels = np.array([[1, 0], [0, 1], [0, -1], [0, 1], [-1, 1]])
    assert positive_weights(labels, weighted=True).tolist() == [3, 1 / 3]
    assert positive_weights(labels, weighted=False).tolist() == [1, 1]
    with pytest.raises(TrialError, match="label number 1 is always present"):
        positive_weights(np.array([[0, 1], [1, 1], [1, -1]]), weighted=True)
    with pytest.raises(TrialError, match="label number 0 is never present"):
        positive_weights(np.array([[0, 1], [0, 0]]), weighted=True)


def test_the_loss_is_torchs_on_what_is_known():
    labels, logits = batch()
    objective = make_objective("multilabel", labels, 3, weighted=True)
    weights = torch.from_numpy(objective.weights).float()
    loss = objective.loss(logits, torch.from_numpy(labels), weights) / objective.amount(labels)
    known = labels >= 0
    each = BCEWithLogitsLoss(pos_weight=weights, reduction="none")(logits, torch.from_numpy(labels).float())
    assert loss.item() == pytest.approx(each[torch.from_numpy(known)].mean().item(), rel=1e-6)
    assert objective.amount(labels) == known.sum() < labels.size
    # By the same weights, the validation loss.
    mean = objective.mean(labels, logits.detach().double().numpy())
    assert mean == pytest.approx(loss.item(), rel=1e-6)


def test_where_all_is_known_it_is_torchs_mean():
    labels, logits = batch(unknown=0)
    objective = BinaryCrossEntropy(np.array([1.0, 4.0, 9.0]))
    weights = torch.from_numpy(objective.weights).float()
    loss = objective.loss(logits, torch.from_numpy(labels), weights) / objective.amount(labels)
    expected = BCEWithLogitsLoss(pos_weight=weights)(logits, torch.from_numpy(labels).float())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_not_known_has_no_gradient_whatever_its_logit():
    labels, logits = batch()
    unknown = torch.from_numpy(labels) < 0
    with torch.no_grad():
        logits[unknown] = float("inf")
    objective = make_objective("multilabel", labels, 3, weighted=True)
    loss = objective.loss(logits, torch.from_numpy(labels), torch.from_numpy(objective.weights).float())
    loss.backward()
    assert torch.isfinite(loss)
    assert not logits.grad[unknown].any()
    assert (logits.grad[~unknown] != 0).all()


def test_an_image_of_which_nothing_is_known_teaches_nothing():
    labels = np.full((4, 3), -1)
    logits = torch.zeros(4, 3, requires_grad=True)
    objective = BinaryCrossEntropy(np.ones(3))
    loss = objective.loss(logits, torch.from_numpy(labels), torch.ones(3)) / objective.amount(labels)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_parts_add_up_to_the_batch(task):
    labels, logits = batch()
    if task == "multiclass":
        labels = np.arange(len(labels)) % 3
    objective = make_objective(task, labels, 3, weighted=True)
    weights, truth = torch.from_numpy(objective.weights).float(), torch.from_numpy(labels)
    whole = objective.loss(logits, truth, weights)
    parts = [objective.loss(logits[part], truth[part], weights) for part in (slice(0, 13), slice(13, 40))]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    amounts = [objective.amount(labels[part]) for part in (slice(0, 13), slice(13, 40))]
    assert sum(amounts) == pytest.approx(objective.amount(labels))


def test_one_class_is_torchs_weighted_cross_entropy():
    _, logits = batch()
    labels = np.arange(len(logits)) % 3 % 2
    objective = make_objective("binary", labels, 2, weighted=True)
    assert isinstance(objective, CrossEntropy)
    weights, truth = torch.from_numpy(objective.weights).float(), torch.from_numpy(labels)
    loss = objective.loss(logits[:, :2], truth, weights) / objective.amount(labels)
    expected = CrossEntropyLoss(weight=weights)(logits[:, :2], truth)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)

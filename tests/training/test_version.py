"""What a trial comes to, held against figures written down: a change here is a change of TRAINING_VERSION."""

import dataclasses

import numpy as np
import pytest
import torch

from ttl.models.backbones import weights_sha256
from ttl.training.accelerator import make_accelerator
from ttl.training.job import Datasets, run_step
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import TRAINING_VERSION, Step, Trial

EXPECTED = {
    3: {
        "ftl": [0.70419, 0.71413],
        "ttl": [0.68005, 0.70166],
        "lwft": [0.69231, 0.68874],
        "tf": [0.69803, 0.70323],
    }
}
"""Validation losses by training version and strategy, of a fresh network on `toy`; float32 on a CPU."""

EXPECTED_PRETRAINED = {
    3: {
        "ttl": [0.46251, 0.9375, 0.6629, 0.9659, 0.1518],
        "tf": [0.68238, 0.65, 0.4845, 0.75, 0.118],
    }
}
"""Validation loss and AUROC, threshold, test AUROC and ECE, of pretrained EfficientNet-Lite0."""


def train(trial, datasets, folder):
    runs = Runs(folder)
    packed = Datasets(datasets, torch.device("cpu"))
    run_step(Step(trial=trial), packed, runs, make_accelerator("no", cpu=True), lambda _: None)
    return runs


@pytest.mark.parametrize("strategy", ["ttl", "tf"])
def test_nor_does_that_of_pretrained_weights_by_the_papers_recipe(strategy, toy, datasets, tmp_path):
    """Resizing, crops, the plateau schedule, depthwise layers, and what follows from the predictions."""
    trial = Trial(
        dataset="toy",
        revision=toy.revision,
        backbone="efficientnet_lite0",
        source_sha256=weights_sha256("efficientnet_lite0", "imagenet"),
        strategy=strategy,
        cut="blocks.2",
        recipe=make_recipe({"base": "paper", "epochs": 2, "batch_size": 16}),
        image_size=40,
        seed=0,
    )
    runs = train(trial, datasets, tmp_path)
    result = runs.result(trial.trial_id)
    found = [result[name] for name in ("val_loss", "val_auroc", "threshold", "test_auroc", "test_ece")]
    loss, *others = EXPECTED_PRETRAINED[TRAINING_VERSION][strategy]
    assert found[0] == pytest.approx(loss, rel=3e-3), found
    # One image that changes places with another moves these by steps.
    assert found[1:] == pytest.approx(others, abs=0.02), found


@pytest.mark.parametrize("strategy", ["ftl", "ttl", "lwft", "tf"])
def test_a_result_does_not_change_without_its_version(strategy, toy, datasets, tmp_path):
    trial = Trial(
        dataset="toy",
        revision=toy.revision,
        backbone="resnet18",
        source="random",
        strategy=strategy,
        cut="full" if strategy == "ftl" else "layer2",
        recipe=make_recipe({"base": "fast", "epochs": 2, "batch_size": 16}),
        image_size=32,
        seed=0,
    )
    runs = train(trial, datasets, tmp_path)
    losses = runs.history(trial.trial_id)["val_loss"].to_list()
    # Another processor sums in another order: the last digits are its own.
    assert losses == pytest.approx(EXPECTED[TRAINING_VERSION][strategy], rel=2e-3), losses


def test_the_version_is_a_part_of_the_identity(toy, monkeypatch):
    trial = Trial(
        dataset="toy", revision=toy.revision, backbone="resnet18", strategy="ftl", recipe=make_recipe("fast"),
        image_size=32, seed=0,
    )  # fmt: skip
    before = trial.trial_id
    monkeypatch.setattr("ttl.training.trial.TRAINING_VERSION", TRAINING_VERSION + 1)
    assert trial.trial_id != before
    assert dataclasses.replace(trial, seed=1).trial_id != trial.trial_id
    assert np.unique([before, trial.trial_id]).size == 2

"""What a trial comes to, held against figures written down: a change here is a change of TRAINING_VERSION."""

import dataclasses

import numpy as np
import pytest

from ttl.training.job import run_trial
from ttl.training.loop import make_accelerator
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import TRAINING_VERSION, Trial

EXPECTED = {
    1: {
        "ftl": [0.70419, 0.71413],
        "ttl": [0.68005, 0.70166],
        "lwft": [0.69231, 0.68874],
        "tf": [0.69803, 0.70323],
    }
}
"""Validation losses by training version and strategy, of a fresh network on `toy`; float32 on a CPU."""


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
    runs = Runs(tmp_path)
    run_trial(trial, datasets, runs, make_accelerator("no", cpu=True), lambda _: None)
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

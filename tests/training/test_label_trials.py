"""A trial of images with several labels, some not known: what it leaves, and what it comes to."""

import numpy as np
import polars as pl
import pytest
import torch

from ttl.data.dataset import PackedDataset
from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec
from ttl.evaluation.labels import evaluate_labels
from ttl.training.accelerator import make_accelerator
from ttl.training.job import Datasets, run_step
from ttl.training.objective import positive_weights
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import TRAINING_VERSION, Step, Trial

EXPECTED = {3: [0.93216, 0.93167]}
"""Validation losses by training version, of a fresh network; float32 on a CPU."""


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A folder of packed datasets with one phantom of three findings."""
    folder = tmp_path_factory.mktemp("packed")
    options = {"patients": 40, "labels": 3, "strength": 2.0, "unknown": 0.1, "unsure": 0.05}
    prepare("several", DatasetSpec(source="phantom", size=32, options=options), folder / "several")
    return folder


@pytest.fixture(scope="module")
def trained(several, tmp_path_factory):
    """A trial, its runs and its dataset."""
    dataset = PackedDataset.open(several / "several")
    trial = Trial(
        dataset="several",
        revision=dataset.revision,
        backbone="resnet10t",
        source="random",
        strategy="ttl",
        cut="layer2",
        recipe=make_recipe({"base": "fast", "epochs": 2, "batch_size": 16}),
        image_size=32,
        seed=0,
    )
    runs = Runs(tmp_path_factory.mktemp("runs"))
    opened = Datasets(several, torch.device("cpu"))
    run_step(Step(trial=trial), opened, runs, make_accelerator("no", cpu=True), lambda _: None)
    return trial, runs, dataset


def test_its_result_has_each_labels_figures(trained):
    trial, runs, _ = trained
    result = runs.result(trial.trial_id)
    assert len(result["threshold"]) == 3
    table = runs.predictions(trial.trial_id)
    assert table.schema["label"] == pl.Array(pl.Int8, 3)
    val = table.filter(split="val")
    labels, scores = val["label"].to_numpy().astype(int), np.array(val["scores"].to_list())
    assert (labels == -1).any()
    # Each label by itself: they add up to nothing in particular.
    assert np.ptp(scores.sum(axis=1)) > 0.01
    again = evaluate_labels(labels, scores, thresholds=result["threshold"])
    for name in ("auroc", "auprc", "sensitivity", "specificity", "ece"):
        assert result[f"val_{name}"] == pytest.approx(getattr(again, name))
        assert result[f"val_{name}_per_class"] == pytest.approx(getattr(again, f"{name}_per_class"))
    assert result["val_scored"] == [0, 1, 2]
    assert result["val_auroc"] == pytest.approx(runs.history(trial.trial_id)["val_auroc"].max())


def test_its_validation_loss_is_weighted_as_the_training_is(trained):
    trial, runs, dataset = trained
    weights = positive_weights(dataset.labels[dataset.indices("train")], weighted=True)
    assert (weights > 1).any()
    val = runs.predictions(trial.trial_id).filter(split="val")
    labels, scores = val["label"].to_numpy().astype(int), np.array(val["scores"].to_list())
    losses = np.where(labels == 1, -weights * np.log(scores), -np.log(1 - scores))
    assert runs.result(trial.trial_id)["val_loss"] == pytest.approx(losses[labels >= 0].mean())


def test_a_result_does_not_change_without_its_version(trained):
    trial, runs, _ = trained
    losses = runs.history(trial.trial_id)["val_loss"].to_list()
    assert losses == pytest.approx(EXPECTED[TRAINING_VERSION], rel=2e-3), losses


def test_a_label_that_a_split_lacks_is_null_in_the_result(several, trained, tmp_path):
    """As JSON has it: there is no NaN."""
    trial, runs, _ = trained
    result = runs.result(trial.trial_id)
    runs = Runs(tmp_path)
    runs.work(trial.trial_id)
    runs.publish(trial, {**result, "val_auroc_per_class": (0.5, float("nan"), 1.0)})
    text = (runs.folder(trial.trial_id) / "result.json").read_text()
    assert "NaN" not in text
    assert runs.result(trial.trial_id)["val_auroc_per_class"] == [0.5, None, 1.0]

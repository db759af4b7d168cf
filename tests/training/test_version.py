"""What a trial comes to, held against figures written down: a change here is a change of TRAINING_VERSION."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from ttl.data.dataset import PackedDataset
from ttl.data.draws import nested_share, redraw
from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec
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

EXPECTED_VARIANTS = {
    3: {
        "flattened": 0.70410,
        "sgd": 0.70969,
        "slices": 0.67347,
    }
}
"""Validation losses of fresh networks with another head or optimiser, and of volumes seen slice by slice."""

EXPECTED_DRAWS = {
    3: {
        ("share", "one"): "c938826f522d5e43",
        ("share", "several"): "51dd1634af1e2eb9",
        ("redraw", "one"): "dbbb7efeee172386",
        ("redraw", "several"): "9c2dc1e78acd4b92",
    }
}
"""Digests of what is drawn of the cohort below, by what, and by how many labels an image has."""


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


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A folder with one dataset of volumes, `deep`: 3 slices of 16 pixels."""
    folder = tmp_path_factory.mktemp("volumes")
    options = {"patients": 24, "depth": 3, "strength": 2.0}
    prepare("deep", DatasetSpec(source="phantom", size=16, seed=3, options=options), folder / "deep")
    return folder


@pytest.mark.parametrize("variant", ["flattened", "sgd", "slices"])
def test_nor_do_those_of_other_heads_optimisers_and_volumes(variant, datasets, volumes, tmp_path):
    folder, name = (volumes, "deep") if variant == "slices" else (datasets, "toy")
    more = {"optimizer": "sgd", "lr": 0.02} if variant == "sgd" else {}
    trial = Trial(
        dataset=name,
        revision=PackedDataset.open(folder / name).revision,
        backbone="resnet10t",
        source="random",
        strategy="ttl",
        cut="layer1",
        recipe=make_recipe({"base": "fast", "epochs": 1, "batch_size": 16, **more}),
        image_size=16,
        seed=0,
        head="flattened" if variant == "flattened" else "pooled",
    )
    (loss,) = train(trial, folder, tmp_path).history(trial.trial_id)["val_loss"]
    assert loss == pytest.approx(EXPECTED_VARIANTS[TRAINING_VERSION][variant], rel=1e-3), loss


def cohort(several):
    """Return ids, labels and patients of 180 images: one to three a patient, of one class or of any."""
    images = [(patient, image) for patient in range(90) for image in range(1 + patient % 3)]
    ids = [f"{patient:02}-{image}" for patient, image in images]
    drawn = np.array([int(hashlib.sha256(one.encode()).hexdigest()[:4], 16) for one in ids])
    labels = (drawn[:, None] // (1, 7, 49) % 7 < (4, 2, 1)).astype(np.int64) if several else drawn % 7 // 3
    return np.array(ids), labels, [f"p{patient}" for patient, _ in images]


@pytest.mark.parametrize("several", [False, True])
def test_nor_do_shares_and_repeated_splits(several):
    ids, labels, patients = cohort(several)
    shares = [
        ids[nested_share(labels, patients, classes=3, share=share, seed=seed)].tolist()
        for share in (0.02, 0.1, 0.5)
        for seed in (0, 1)
    ]
    sides = (["train"] * 3 + ["val", "test"]) * (len(ids) // 5)
    redrawn = [
        redraw(labels, patients, ids.tolist(), sides, classes=("a", "b", "c"), seed=seed) for seed in (0, 1)
    ]
    for kind, found in (("share", shares), ("redraw", redrawn)):
        digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
        expected = EXPECTED_DRAWS[TRAINING_VERSION][kind, "several" if several else "one"]
        assert digest == expected, (kind, digest)


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

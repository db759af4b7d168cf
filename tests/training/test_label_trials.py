"""A trial of images with several labels, some not known: what it leaves, and what it comes to."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from ttl.data.dataset import DatasetInfo, PackedDataset
from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec
from ttl.errors import TrialError
from ttl.evaluation.labels import evaluate_labels
from ttl.training.accelerator import make_accelerator
from ttl.training.division import check_resplit, divide
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


@pytest.fixture(scope="module")
def uncertain(tmp_path_factory):
    """The same phantom, by the policy."""
    folder = tmp_path_factory.mktemp("uncertain")

    def make(policy, unsure=0.05):
        options = {"patients": 40, "labels": 3, "unsure": unsure, "uncertain": policy}
        name = f"{policy}-{unsure}"
        return prepare(name, DatasetSpec(source="phantom", size=16, options=options), folder / name)

    return make


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


@pytest.mark.parametrize("resplit", ["val", "all"])
def test_each_seed_divides_them_anew_by_patient_and_label(trained, resplit):
    trial, _, dataset = trained
    people = dataset.samples["patient_id"].to_numpy()
    ones = [divide(dataclasses.replace(trial, resplit=resplit, seed=seed), dataset) for seed in (1, 2)]
    for found in ones:
        assert sorted(np.concatenate(list(found.values()))) == list(range(dataset.samples.height))
        sides = [set(people[rows]) for rows in found.values()]
        assert not any(one & other for i, one in enumerate(sides) for other in sides[i + 1 :])
        for split, rows in found.items():
            assert len(rows) == pytest.approx(len(dataset.indices(split)), abs=4)
            for value in (0, 1):
                assert (dataset.labels[rows] == value).any(axis=0).all()
        kept = found["test"].tolist() == dataset.indices("test").tolist()
        assert kept == (resplit == "val")
    assert ones[0]["train"].tolist() != ones[1]["train"].tolist()


def test_a_trial_on_a_split_of_its_own_is_trained(several, trained, tmp_path):
    trial, _, dataset = trained
    recipe = dataclasses.replace(trial.recipe, epochs=1)
    wanted = dataclasses.replace(trial, resplit="val", share=0.5, cut="layer1", recipe=recipe)
    runs, packed = Runs(tmp_path), Datasets(several, torch.device("cpu"))
    run_step(Step(trial=wanted), packed, runs, make_accelerator("no", cpu=True), lambda _: None)
    scored = runs.predictions(wanted.trial_id).filter(split="val")["sample_id"]
    ids = dataset.samples["sample_id"].to_numpy()[divide(wanted, dataset)["val"]]
    assert sorted(scored) == sorted(ids.tolist())


@pytest.mark.parametrize("policy", ["zeros", "ones"])
def test_labels_that_were_made_up_stay_in_training(uncertain, trained, policy):
    data = uncertain(policy)
    trial = dataclasses.replace(trained[0], share=0.5)
    assert divide(trial, data)["val"].tolist() == data.indices("val").tolist()
    for resplit in ("val", "all"):
        with pytest.raises(TrialError, match=rf"`uncertain: {policy}` made up .*`options.uncertain: ignore`"):
            divide(dataclasses.replace(trial, resplit=resplit), data)
    none = uncertain(policy, unsure=0.0)
    assert none.info.uncertain == uncertain("ignore").info.uncertain == "ignore"
    divide(dataclasses.replace(trial, resplit="all"), none)
    divide(dataclasses.replace(trial, resplit="all"), uncertain("ignore"))


def test_of_a_dataset_of_before_it_is_not_known_and_that_is_said(uncertain, toy):
    data = uncertain("ignore")
    values = data.info.to_dict()
    del values["uncertain"]
    old = dataclasses.replace(data, info=DatasetInfo.from_dict(values))
    with pytest.raises(TrialError, match="an earlier version packed it: `ttl data prepare"):
        check_resplit("val", old)
    check_resplit("none", old)
    # Of one label an image, none is uncertain.
    check_resplit("val", dataclasses.replace(toy, info=dataclasses.replace(toy.info, uncertain=None)))

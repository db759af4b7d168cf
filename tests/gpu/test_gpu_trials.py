"""Trials on a real GPU, through the jobs that a sweep runs: the same result, or how nearly."""

import dataclasses
import gc
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from tests.gpu.trials import CPU, apart, make_trial, scores, train
from tests.release import trained
from ttl.data.dataset import PackedDataset
from ttl.models.cost import cost
from ttl.models.network import build_network
from ttl.release.export import export_model
from ttl.release.predict import load_model
from ttl.training.accelerator import make_accelerator
from ttl.training.devices import find_slots
from ttl.training.job import Datasets, run_step
from ttl.training.loop import Trainer, network_spec
from ttl.training.pixels import Pixels
from ttl.training.runs import Runs
from ttl.training.trial import Step

AUROC = 0.05
"""One of about 20 validation images that changes places with another moves it by 0.01."""


@pytest.fixture(scope="module")
def plain(toy, datasets, tmp_path_factory):
    """The runs and result of a trial in float32 on the GPU. Read them only."""
    runs = Runs(tmp_path_factory.mktemp("plain"))
    (result,) = train(find_slots(1)[0], runs, datasets, make_trial(toy))
    assert result["status"] == "completed", result
    return runs, result


def test_a_trial_comes_nearly_to_what_it_comes_to_on_a_cpu(plain, toy, datasets, tmp_path):
    runs, result = plain
    assert "NVIDIA" in result["device"]
    others = Runs(tmp_path / "cpu")
    (other,) = train(CPU, others, datasets, make_trial(toy))
    assert other["device"] == "cpu"
    assert result["val_auroc"] == pytest.approx(other["val_auroc"], abs=AUROC)
    assert result["val_loss"] == pytest.approx(other["val_loss"], rel=0.05)
    trial = make_trial(toy)
    assert np.abs(scores(runs, trial) - scores(others, trial)).max() < 0.05
    same = ("macs", "train_macs", "params", "model_bytes")
    assert [result[name] for name in same] == [other[name] for name in same]


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_same_seed_gives_the_same_bytes(backbone, precision, toy, datasets, tmp_path, slot):
    changes = {"cut": "layer2", "source": "random"} if backbone == "resnet18" else {}
    trial = make_trial(toy, backbone=backbone, recipe={"precision": precision}, **changes)
    weights = []
    for name in ("one", "other"):
        runs = Runs(tmp_path / name)
        assert train(slot, runs, datasets, trial)[0]["status"] == "completed"
        weights.append(runs.weights(trial.trial_id).read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"precision": "fp16"}, {"compile": True}])
def test_another_precision_and_compiling_come_to_nearly_the_same(
    change, plain, toy, datasets, tmp_path, slot
):
    runs, result = plain
    others, trial = Runs(tmp_path / "runs"), make_trial(toy, recipe=change)
    (other,) = train(slot, others, datasets, trial)
    assert other["status"] == "completed", other
    history = others.history(trial.trial_id)
    assert np.isfinite(history.select("train_loss", "val_loss").to_numpy()).all()
    assert other["val_auroc"] == pytest.approx(result["val_auroc"], abs=AUROC)
    assert np.abs(scores(others, trial) - scores(runs, make_trial(toy))).mean() < 0.05


def frozen_and_computed(root, kept, precision):
    """Return the validation losses of a training on kept features and of one on computed ones."""
    data, accelerator = PackedDataset.open(root), make_accelerator(precision, cpu=False)
    recipe = {"epochs": 4, "crop_scale": 1.0, "precision": precision}
    trial, losses = make_trial(data, strategy="lwft", cut="blocks.2", recipe=recipe), []
    for keep in (True, False):
        (kept / str(keep)).mkdir(parents=True)
        trainer = Trainer(trial, Pixels(data, accelerator.device), accelerator, kept / str(keep))
        assert set(trainer.frozen.tables) == {"train", "val"}
        if not keep:
            trainer.frozen = None
        trainer.run(lambda _: None)
        trainer.close()
        losses.append([epoch.val_loss for epoch in trainer.history])
    return losses


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_on_kept_features_comes_to_the_same(precision, toy, tmp_path):
    kept, computed = apart(frozen_and_computed, toy.root, tmp_path, precision)
    assert kept == pytest.approx(computed, rel=1e-3)


def test_a_trainer_that_is_killed_goes_on_from_its_last_epoch(plain, toy, datasets, tmp_path, slot):
    trial = make_trial(toy)
    runs, events, killed = Runs(tmp_path / "runs"), [], []
    before = set(psutil.Process().children(recursive=True))

    def on_event(event):
        events.append(event)
        if not killed and (event.kind, event.epoch) == ("epoch", 2):
            below = set(psutil.Process().children(recursive=True)) - before
            (trainer,) = [one for one in below if "ttl.training.job" in one.cmdline() and not one.children()]
            killed.append(trainer.pid)
            trainer.kill()

    (result,) = train(slot, runs, datasets, trial, on_event=on_event)
    assert result["status"] == "completed", result
    assert [event.epoch for event in events if event.kind == "epoch"] == [1, 2, 3]
    (said,) = [event.text for event in events if event.kind == "message"]
    assert said.startswith("the trainer died; again from its last epoch")
    assert "SIGKILL" in said
    whole, _ = plain
    assert runs.weights(trial.trial_id).read_bytes() == whole.weights(trial.trial_id).read_bytes()
    assert set(psutil.Process().children(recursive=True)) <= before


def left_after_trials(root, folder, precision):
    """Return the bytes of the GPU that are taken after a trial whose garbage was collected, and the next."""
    data, accelerator = PackedDataset.open(root), make_accelerator(precision, cpu=False)
    opened, found = Datasets(root.parent, accelerator.device), []
    for seed in (0, 1):
        trial = make_trial(data, seed=seed, strategy="ftl", cut="full", recipe={"precision": precision})
        run_step(Step(trial=trial), opened, Runs(folder), accelerator, lambda _: None)
        if seed == 0:
            gc.collect()
        found.append(torch.cuda.memory_allocated())
    return found


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_trial_leaves_the_gpus_memory_to_the_next(precision, toy, tmp_path):
    # What stays are workspaces of CUDA's libraries.
    collected, left = apart(left_after_trials, toy.root, tmp_path / "runs", precision)
    assert left == pytest.approx(collected, abs=1e5)


def test_the_exported_model_scores_on_a_cpu_as_its_trainer_did(tmp_path, slot):
    data, runs = trained.make_dataset(tmp_path / "datasets" / trained.NAME), Runs(tmp_path / "runs")
    trial, whole = make_trial(data), make_trial(data, strategy="ftl", cut="full")
    (result,) = train(slot, runs, tmp_path / "datasets", trial)
    assert result["status"] == "completed", result
    runs.work(whole.trial_id)
    network = build_network(network_spec(whole, data.info), pretrained=False)
    runs.publish(whole, {"status": "completed", "device": "cpu", **dataclasses.asdict(cost(network, 32))})
    selection = trained.select(data, runs, trial, whole)
    export = partial(export_model, selection, runs=runs.root, dataset=data, out=tmp_path / "models")
    exported = apart(export)
    pixels = data.read(data.indices("val"))
    engines = [load_model(exported, engine=name).probabilities(pixels)[:, 1] for name in ("onnx", "torch")]
    assert np.abs(engines[0] - engines[1]).max() < 1e-4
    table = runs.predictions(trial.trial_id)
    ids = data.samples["sample_id"].gather(data.indices("val"))
    known = dict(zip(table["sample_id"], table["scores"], strict=True))
    on_gpu = np.array([known[name][1] for name in ids])
    assert np.abs(engines[0] - on_gpu).max() < 1e-4
    assert result["device"] in (exported / "card.md").read_text()

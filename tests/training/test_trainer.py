"""The training of one trial, in this process: determinism, resuming, what stays frozen, what fails."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from ttl.errors import ParamsError, TrialError
from ttl.evaluation.metrics import evaluate
from ttl.models.backbones import load_backbone, weights_sha256
from ttl.training.accelerator import FIRST_SCALE, make_accelerator, reset_scaler
from ttl.training.job import Datasets, run_step
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import Step, Trial

RECIPE = make_recipe({"base": "fast", "epochs": 2, "batch_size": 16})


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


@pytest.fixture
def trial(toy):
    return Trial(
        dataset="toy",
        revision=toy.revision,
        backbone="efficientnet_lite0",
        source_sha256=weights_sha256("efficientnet_lite0", "imagenet"),
        strategy="ttl",
        cut="blocks.1",
        recipe=RECIPE,
        image_size=32,
        seed=0,
    )


def run(trial, datasets, tmp_path, accelerator):
    runs, events = Runs(tmp_path / "runs"), []
    run_step(Step(trial=trial), Datasets(datasets, torch.device("cpu")), runs, accelerator, events.append)
    return runs, runs.result(trial.trial_id), events


def test_a_trial_leaves_what_the_contract_says(trial, toy, datasets, tmp_path, accelerator):
    runs, result, events = run(trial, datasets, tmp_path, accelerator)
    folder = runs.folder(trial.trial_id)
    assert {path.name for path in folder.iterdir()} == {
        "trial.json", "result.json", "history.parquet", "predictions.parquet", "model.safetensors"
    }  # fmt: skip
    assert [event.kind for event in events] == ["started", "epoch", "epoch", "completed"]
    assert runs.trial(trial.trial_id) == trial
    table = runs.predictions(trial.trial_id)
    for split in ("val", "test"):
        expected = toy.samples.filter(pl.col("split") == split)["sample_id"].to_list()
        assert sorted(table.filter(pl.col("split") == split)["sample_id"]) == sorted(expected)
    val = table.filter(pl.col("split") == "val")
    again = evaluate(
        val["label"].to_numpy(), np.array(val["scores"].to_list()), threshold=result["threshold"]
    )
    assert result["val_auroc"] == pytest.approx(again.auroc)
    assert result["val_auroc"] == pytest.approx(runs.history(trial.trial_id)["val_auroc"].max())
    assert result["val_balanced_accuracy"] == pytest.approx(again.balanced_accuracy)
    assert result["train_macs"] > 3 * result["macs"] * len(toy.indices("train"))
    weights = load_file(folder / "model.safetensors")
    assert result["params"] == sum(
        value.numel() for name, value in weights.items() if "running" not in name and "tracked" not in name
    )


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trial, datasets, tmp_path, accelerator):
    first = run(trial, datasets, tmp_path / "a", accelerator)[0].folder(trial.trial_id)
    second = run(trial, datasets, tmp_path / "b", accelerator)[0].folder(trial.trial_id)
    weights = "model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    other = dataclasses.replace(trial, seed=1)
    third = run(other, datasets, tmp_path / "c", accelerator)[0].folder(other.trial_id)
    assert (first / weights).read_bytes() != (third / weights).read_bytes()


@pytest.mark.parametrize("base", ["fast", "paper"])
def test_resuming_gives_what_an_uninterrupted_training_gives(base, trial, toy, tmp_path, accelerator):
    recipe = make_recipe({"base": base, "epochs": 3, "batch_size": 16})
    trial = dataclasses.replace(trial, recipe=recipe)

    def finished(checkpoint, stop_after=None):
        trainer = Trainer(trial, Pixels(toy, accelerator.device), accelerator, checkpoint)

        def on_epoch(epoch):
            if epoch.epoch == stop_after:
                raise KeyboardInterrupt

        try:
            trainer.run(on_epoch)
        finally:
            trainer.close()
        return trainer

    whole = finished(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        finished(tmp_path / "cut.pt", stop_after=2)
    resumed = finished(tmp_path / "cut.pt")
    assert [epoch.val_loss for epoch in resumed.history] == [epoch.val_loss for epoch in whole.history]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_stopped_trial_goes_on_from_its_checkpoint_to_the_same_result(
    trial, datasets, tmp_path, accelerator
):
    trial = dataclasses.replace(trial, recipe=make_recipe({"base": "fast", "epochs": 3, "batch_size": 16}))
    whole = run(trial, datasets, tmp_path / "whole", accelerator)[0]
    runs, events = Runs(tmp_path / "runs"), []
    first, last = Step(trial=trial, epochs=2), Step(trial=trial)
    run_step(first, Datasets(datasets, torch.device("cpu")), runs, accelerator, events.append)
    stopped = runs.result(trial.trial_id)
    assert (stopped["status"], stopped["epochs"]) == ("stopped", 2)
    assert (events[-1].kind, events[-1].epoch) == ("stopped", 2)
    assert runs.reached(first)
    assert not runs.reached(last)
    # The test split is scored at the end alone.
    assert set(runs.predictions(trial.trial_id)["split"]) == {"val"}
    assert not any(name.startswith("test_") for name in stopped)
    seconds = runs.history(trial.trial_id)["seconds"].to_list()
    run_step(last, Datasets(datasets, torch.device("cpu")), runs, accelerator, events.append)
    assert runs.reached(last)
    assert runs.history(trial.trial_id)["seconds"].to_list()[:2] == seconds, "it started again"
    folders = [one.folder(trial.trial_id) for one in (whole, runs)]
    assert {path.name for path in folders[0].iterdir()} == {path.name for path in folders[1].iterdir()}
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    times = {"train_seconds", "latency_ms"}
    results = [one.result(trial.trial_id) for one in (whole, runs)]
    assert all(results[0][name] == results[1][name] for name in results[0].keys() - times)


def test_a_damaged_checkpoint_starts_again(trial, datasets, tmp_path, accelerator, caplog):
    clean = run(trial, datasets, tmp_path / "clean", accelerator)[1]
    runs = Runs(tmp_path / "runs")
    (runs.work(trial.trial_id) / "checkpoint.pt").write_bytes(b"not a checkpoint")
    result = run(trial, datasets, tmp_path, accelerator)[1]
    assert "checkpoint is damaged" in caplog.text
    assert result["val_loss"] == clean["val_loss"]


def test_lwft_moves_nothing_below_the_cut(trial, datasets, tmp_path, accelerator):
    trial = dataclasses.replace(trial, strategy="lwft", cut="blocks.3")
    runs, result, _ = run(trial, datasets, tmp_path, accelerator)
    trained = load_file(runs.folder(trial.trial_id) / "model.safetensors")
    pretrained = load_backbone("efficientnet_lite0", "imagenet", 32).state_dict()
    below = [n for n in pretrained if n.startswith(("conv_stem", "bn1", *(f"blocks.{i}." for i in range(4))))]
    assert len(below) > 100
    for name in below:
        assert torch.equal(trained[name], pretrained[name]), name
    moved = [name for name in trained if name.startswith("blocks.5") and trained[name].is_floating_point()]
    assert all(not torch.equal(trained[name], pretrained[name]) for name in moved)
    assert result["status"] == "completed"


def test_a_lost_loss_is_a_failure_with_its_reason(trial, datasets, tmp_path, accelerator):
    recipe = make_recipe({"base": "fast", "epochs": 2, "lr": 1e30, "batch_size": 16})
    trial = dataclasses.replace(trial, recipe=recipe)
    _, result, events = run(trial, datasets, tmp_path, accelerator)
    assert result["status"] == "failed"
    assert "loss is" in result["error"] or "not finite" in result["error"]
    assert events[-1].kind == "failed"


def test_a_dataset_that_was_prepared_anew_is_refused(trial, toy, tmp_path, accelerator):
    with pytest.raises(TrialError, match="prepared anew"):
        Trainer(
            dataclasses.replace(trial, revision="other"),
            Pixels(toy, accelerator.device),
            accelerator,
            tmp_path / "c.pt",
        )


def test_the_plateau_schedule_stops_under_its_lowest_rate(trial, toy, tmp_path, accelerator):
    recipe = make_recipe(
        {
            "base": "paper",
            "epochs": 50,
            "lr": 1e-5,
            "plateau_patience": 0,
            "plateau_factor": 0.1,
            "min_lr": 5e-7,
        }
    )
    trainer = Trainer(
        dataclasses.replace(trial, recipe=recipe),
        Pixels(toy, accelerator.device),
        accelerator,
        tmp_path / "c.pt",
    )
    trainer.run(lambda _: None)
    assert len(trainer.history) < 50
    assert trainer.optimizer.param_groups[0]["lr"] < 5e-7
    best = min(trainer.history, key=lambda epoch: epoch.val_loss)
    assert trainer.best_epoch == best.epoch


def test_a_failure_is_replaced_by_a_result(trial, tmp_path):
    runs = Runs(tmp_path)
    runs.publish_failure(trial, "the machine burnt down")
    assert not runs.reached(Step(trial=trial))
    assert runs.result(trial.trial_id) == {"status": "failed", "error": "the machine burnt down"}
    runs.publish(trial, {"status": "completed", "val_ece": float("nan")})
    assert runs.reached(Step(trial=trial))
    assert json.loads((runs.folder(trial.trial_id) / "result.json").read_text())["val_ece"] is None


def test_weights_that_were_replaced_after_planning_are_not_trained_on(trial, toy, tmp_path, accelerator):
    planned = dataclasses.replace(trial, source_sha256="0" * 64)
    with pytest.raises(TrialError, match="has changed; run the sweep again"):
        Trainer(planned, Pixels(toy, accelerator.device), accelerator, tmp_path / "c.pt")


def test_what_is_trained_does_not_follow_the_order_of_the_rows(toy):
    turned = dataclasses.replace(toy, samples=toy.samples.reverse())
    assert turned.revision == toy.revision
    for split in ("train", "val"):
        ids = [data.samples["sample_id"][data.indices(split).tolist()].to_list() for data in (toy, turned)]
        assert ids[0] == ids[1]


def test_each_trial_starts_with_the_first_loss_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE)
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(3):
        scaler.scale((weight * float("inf")).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == FIRST_SCALE / 8
    reset_scaler(SimpleNamespace(scaler=scaler))
    assert scaler.get_scale() == FIRST_SCALE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "constant"}, "'constant'; it must be one of: plateau, one-cycle"),
        ({"criterion": "val_accuracy"}, "must be one of: val_loss, val_auroc"),
        ({"optimizer": "sgd"}, "must be one of: adam, adamw"),
        ({"plateau_patience": 3}, "belongs to the schedule plateau, not to one-cycle"),
        ({"base": "paper", "warmup": 0.1}, "belongs to the schedule one-cycle, not to plateau"),
    ],
)
def test_a_recipe_says_what_it_would_not_follow(change, words):
    with pytest.raises(ParamsError, match=words):
        make_recipe(change)


def test_identity_is_what_changes_the_result(trial):
    assert dataclasses.replace(trial, cut_index=9, granularity="block").trial_id == trial.trial_id
    renamed = dataclasses.replace(trial.recipe, name="another name")
    assert dataclasses.replace(trial, recipe=renamed).trial_id == trial.trial_id
    for change in ({"seed": 1}, {"image_size": 64}, {"revision": "r"}, {"processes": 2}, {"cut": "blocks.2"}):
        assert dataclasses.replace(trial, **change).trial_id != trial.trial_id
    assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial

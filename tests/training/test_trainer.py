"""The training of one trial, in this process: determinism, resuming, what stays frozen, what fails."""

import dataclasses
import errno
import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from ttl.errors import LostLossError, ParamsError, TrialError
from ttl.evaluation.metrics import evaluate
from ttl.models.backbones import load_backbone, weights_sha256
from ttl.training import checkpoint
from ttl.training.accelerator import FIRST_SCALE, make_accelerator, reset_scaler
from ttl.training.job import Datasets, find_cause, run_step
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

    def finished(kept, stop_after=None):
        kept.mkdir(exist_ok=True)
        trainer = Trainer(trial, Pixels(toy, accelerator.device), accelerator, kept)

        def on_epoch(epoch):
            if epoch.epoch == stop_after:
                raise KeyboardInterrupt

        try:
            trainer.run(on_epoch)
        finally:
            trainer.close()
        return trainer

    whole = finished(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finished(tmp_path / "cut", stop_after=2)
    resumed = finished(tmp_path / "cut")
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
    # The history has times too, so its checksum differs.
    times = {"train_seconds", "latency_ms", "files"}
    results = [one.result(trial.trial_id) for one in (whole, runs)]
    assert all(results[0][name] == results[1][name] for name in results[0].keys() - times)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_one_epoch(damaged, trial, toy, tmp_path, accelerator, caplog):
    trial = dataclasses.replace(trial, recipe=make_recipe({"base": "fast", "epochs": 4, "batch_size": 16}))
    pixels, folders = Pixels(toy, accelerator.device), [tmp_path / name for name in ("whole", "damaged")]
    trainers = []
    for folder in folders:
        folder.mkdir()
        trainers.append(Trainer(trial, pixels, accelerator, folder))
        trainers[-1].run(lambda _: None, epochs=4 if folder == folders[0] else 2)
        trainers[-1].close()
    kept = checkpoint.found(folders[1])
    assert [checkpoint.epoch_of(path.name) for path in kept] == [2, 1]
    for path in kept[:damaged]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    again = Trainer(trial, pixels, accelerator, folders[1])
    epochs = []
    again.run(lambda epoch: epochs.append(epoch.epoch))
    again.close()
    assert epochs[0] == 3 - damaged
    assert caplog.text.count("is damaged") == damaged
    assert [epoch.val_loss for epoch in again.history] == [epoch.val_loss for epoch in trainers[0].history]


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
    runs, events = Runs(tmp_path / "runs"), []
    step, opened = Step(trial=trial), Datasets(datasets, torch.device("cpu"))
    with pytest.raises(LostLossError):
        run_step(step, opened, runs, accelerator, events.append)
    assert "loss is" in events[-1].text or "not finite" in events[-1].text
    assert [event.kind for event in events] == ["started", "message", "failed"]
    assert events[1].text.endswith("the epoch is tried once more")
    # Whether it is a result is for whoever launched the job to say.
    assert runs.result(trial.trial_id) is None


def test_a_loss_that_is_lost_once_costs_an_epoch(trial, datasets, tmp_path, accelerator, monkeypatch):
    trial = dataclasses.replace(trial, recipe=make_recipe({"base": "fast", "epochs": 3, "batch_size": 16}))
    clean = run(trial, datasets, tmp_path / "clean", accelerator)[1]
    loss, calls = torch.nn.functional.cross_entropy, []

    def faulty(*arguments, **options):
        calls.append(1)
        # In the second of three epochs.
        return loss(*arguments, **options) * (float("nan") if len(calls) == 9 else 1)

    monkeypatch.setattr("torch.nn.functional.cross_entropy", faulty)
    _, result, events = run(trial, datasets, tmp_path, accelerator)
    assert [event.epoch for event in events if event.kind == "epoch"] == [1, 2, 3]
    (message,) = [event for event in events if event.kind == "message"]
    assert "the training loss is nan in epoch 2" in message.text
    assert result["val_loss"] == clean["val_loss"]
    assert result["test_auroc"] == clean["test_auroc"]


def test_what_fails_says_whether_it_may_pass(tmp_path, monkeypatch):
    assert find_cause(torch.OutOfMemoryError("CUDA out of memory"), tmp_path) == "memory"
    assert find_cause(LostLossError("nan"), tmp_path) == ""
    assert find_cause(OSError(errno.ENOSPC, "No space left on device"), tmp_path) == "storage"
    assert find_cause(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path) == "storage"
    assert find_cause(RuntimeError("unexpected pos 64 vs 0"), tmp_path) == ""
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("ttl.patience.shutil.disk_usage", lambda _: full)
    assert find_cause(RuntimeError("unexpected pos 64 vs 0"), tmp_path) == "storage"


def test_micro_batches_add_up_to_the_same_gradient(trial, toy, tmp_path, accelerator):
    """Of a network without batch norm, which sees one micro-batch at a time."""
    recipe = make_recipe({"base": "fast", "epochs": 1, "batch_size": 16})
    trial = dataclasses.replace(
        trial, backbone="convnext_atto", source="random", source_sha256="", cut="stages.1", recipe=recipe
    )
    losses = []
    for parts in (1, 3):
        (tmp_path / str(parts)).mkdir()
        pixels, kept = Pixels(toy, accelerator.device), tmp_path / str(parts)
        trainer = Trainer(trial, pixels, accelerator, kept, micro_batches=parts)
        trainer.run(lambda _: None)
        trainer.close()
        losses.append((trainer.history[0].train_loss, trainer.history[0].val_loss))
    assert np.allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0] != losses[1], "the batches were not divided"
    with pytest.raises(TrialError, match="at least 2 are needed"):
        Trainer(trial, Pixels(toy, accelerator.device), accelerator, tmp_path, micro_batches=9)


def test_a_dataset_that_was_prepared_anew_is_refused(trial, toy, tmp_path, accelerator):
    with pytest.raises(TrialError, match="prepared anew"):
        Trainer(
            dataclasses.replace(trial, revision="other"),
            Pixels(toy, accelerator.device),
            accelerator,
            tmp_path,
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
        tmp_path,
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
    failed = runs.result(trial.trial_id)
    assert (failed["status"], failed["error"]) == ("failed", "the machine burnt down")
    assert set(failed["files"]) == {"trial.json"}
    runs.publish(trial, {"status": "completed", "val_ece": float("nan")})
    assert runs.reached(Step(trial=trial))
    assert json.loads((runs.folder(trial.trial_id) / "result.json").read_text())["val_ece"] is None


def test_weights_that_were_replaced_after_planning_are_not_trained_on(trial, toy, tmp_path, accelerator):
    planned = dataclasses.replace(trial, source_sha256="0" * 64)
    with pytest.raises(TrialError, match="has changed; run the sweep again"):
        Trainer(planned, Pixels(toy, accelerator.device), accelerator, tmp_path)


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
        ({"optimizer": "lamb"}, "must be one of: adam, adamw, sgd"),
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

"""Jobs as they are run: `accelerate launch`, one process and two."""

import os
import threading

import numpy as np
import polars as pl
import psutil
import pytest

from ttl.errors import ServiceError
from ttl.models.backbones import weights_sha256
from ttl.processes import kill_children
from ttl.training import checkpoint
from ttl.training.accelerator import make_accelerator
from ttl.training.devices import find_slots
from ttl.training.job import Datasets, run_step
from ttl.training.launch import Job
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.store import Store
from ttl.training.trial import Step, Trial
from ttl.training.worker import Failure, Worker, _Tries

OUT_OF_MEMORY = """
import sys
if "ttl.training.job" in " ".join(sys.orig_argv):
    import torch
    loss = torch.nn.functional.cross_entropy

    def limited(logits, *arguments, **options):
        # Of two processes the second alone.
        if len(logits) > 5 and torch.distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("out of memory")
        return loss(logits, *arguments, **options)

    torch.nn.functional.cross_entropy = limited
"""

RECIPE = make_recipe({"base": "fast", "epochs": 2, "batch_size": 16})


def make_trial(toy, **changes):
    values = {
        "dataset": "toy",
        "revision": toy.revision,
        "backbone": "efficientnet_lite0",
        "source_sha256": weights_sha256("efficientnet_lite0", "imagenet"),
        "strategy": "ttl",
        "cut": "blocks.1",
        "recipe": RECIPE,
        "image_size": 32,
        "seed": 0,
    }
    return Trial(**{**values, **changes})


def trainer_below(before):
    """Return the one process that trains, of those that this one has started since."""
    below = set(psutil.Process().children(recursive=True)) - before
    (trainer,) = [one for one in below if "ttl.training.job" in one.cmdline() and not one.children()]
    return trainer


def test_a_trainer_that_is_killed_goes_on_from_its_last_epoch(toy, datasets, tmp_path):
    recipe = make_recipe({"base": "fast", "epochs": 4, "batch_size": 16})
    trials = [make_trial(toy, seed=0, recipe=recipe), make_trial(toy, seed=1)]
    runs, events, killed = Runs(tmp_path / "runs"), [], []
    # Other tests' helpers, such as multiprocessing's resource tracker, live as long as this process.
    before = set(psutil.Process().children(recursive=True))

    def on_event(event):
        events.append(event)
        if not killed and (event.kind, event.epoch) == ("epoch", 2):
            killed.append(trainer_below(before).pid)
            kill_children(killed[0])
            psutil.Process(killed[0]).kill()

    with Worker(find_slots(1)[0], runs, datasets) as worker:
        worker.run([Step(trial=one) for one in trials], on_event)
    assert [runs.result(trial.trial_id)["status"] for trial in trials] == ["completed"] * 2
    first = [event for event in events if event.trial_id == trials[0].trial_id]
    # No epoch that had ended is trained again.
    assert [event.epoch for event in first if event.kind == "epoch"] == [1, 2, 3, 4]
    (said,) = [event.text for event in first if event.kind == "message"]
    assert said.startswith("the trainer died; again from its last epoch (the job died: ")
    assert "SIGKILL" in said
    assert set(psutil.Process().children(recursive=True)) <= before

    whole = Runs(tmp_path / "whole")
    accelerator = make_accelerator("no", cpu=True)
    opened = Datasets(datasets, accelerator.device)
    run_step(Step(trial=trials[0]), opened, whole, accelerator, lambda _: None)
    one, other = (each.predictions(trials[0].trial_id) for each in (runs, whole))
    assert one.equals(other)


def test_what_fails_for_a_reason_that_passes_is_tried_again_and_not_for_ever(tmp_path, monkeypatch):
    tries = _Tries(tmp_path)
    death = Failure(text="signal 9", cause="death")
    assert [bool(tries.again(death)) for _ in range(3)] == [True, True, False]
    tries.reached(1)
    assert tries.again(death)
    # An epoch that is repeated is no progress, such as the last, which is not checkpointed.
    assert tries.again(death)
    tries.reached(1)
    assert not tries.again(death)
    assert not tries.again(Failure(text="bad data"))
    monkeypatch.setenv("TTL_PATIENCE", "10")
    full = Failure(text="No space left on device", cause="storage")
    assert [tries.again(full) and tries.pause for _ in range(4)] == [1, 2, 4, 8]
    with pytest.raises(ServiceError, match=r"no room for 15 s .* make room, and give the same command"):
        tries.again(full)


def test_a_trial_that_does_not_fit_is_run_in_smaller_parts_by_all_processes(
    toy, datasets, tmp_path, monkeypatch
):
    """The trainers' own cross-entropy is made to run out of memory for more than five images at once."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OUT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    trial, runs, events = make_trial(toy, processes=2), Runs(tmp_path / "runs"), []
    with Worker(find_slots(2)[0], runs, datasets) as worker:
        worker.run([Step(trial=trial)], events.append)
    result = runs.result(trial.trial_id)
    assert (result["status"], result["micro_batches"]) == ("completed", 2), result
    (said,) = [event.text for event in events if event.kind == "message"]
    assert said.startswith("out of memory; again with each batch in 2 parts (OutOfMemoryError")


def test_two_processes_score_every_sample_once_and_nearly_as_one_does(toy, datasets, tmp_path):
    runs = Runs(tmp_path / "runs")
    one, two = make_trial(toy), make_trial(toy, processes=2)
    assert one.trial_id != two.trial_id
    for trial in (one, two):
        slot = find_slots(trial.processes)[0]
        # Those of several processes take one step after another from their pipes.
        steps = [Step(trial=trial, epochs=1), Step(trial=trial)] if trial is two else [Step(trial=trial)]
        with Worker(slot, runs, datasets) as worker:
            worker.run(steps, lambda _: None)
        assert runs.result(trial.trial_id)["status"] == "completed", runs.result(trial.trial_id)
    tables = [runs.predictions(trial.trial_id).sort("sample_id") for trial in (one, two)]
    assert tables[0]["sample_id"].equals(tables[1]["sample_id"])
    assert tables[0]["sample_id"].n_unique() == tables[0].height
    wanted = toy.samples.filter(pl.col("split") != "train").height
    assert tables[0].height == wanted
    scores = [np.array(table["scores"].to_list()) for table in tables]
    # Batch norm sees half of each batch, so they differ; but not by much.
    assert np.abs(scores[0] - scores[1]).mean() < 0.2
    assert runs.result(two.trial_id)["processes"] == 2


def test_what_another_sweep_is_at_comes_last_and_is_not_run_again(toy, datasets, tmp_path):
    """The other sweep ends its trial only when this one has said that it waits for it."""
    busy, free = make_trial(toy, seed=0), make_trial(toy, seed=1)
    runs, events = Runs(tmp_path / "runs"), []
    said, result = threading.Event(), {"status": "completed", "epochs": 2, "val_auroc": 0.5}

    def another_sweep(claimed):
        with runs.claim(busy.trial_id):
            claimed.set()
            assert said.wait(60)
            runs.publish(busy, result)

    def on_event(event):
        events.append((event.kind, event.trial_id))
        if event.kind == "message":
            said.set()

    claimed = threading.Event()
    other = threading.Thread(target=another_sweep, args=(claimed,), daemon=True)
    other.start()
    assert claimed.wait(10)
    with Worker(find_slots(1)[0], runs, datasets) as worker:
        worker.run([Step(trial=busy), Step(trial=free)], on_event)
    other.join(10)
    ends = [event for event in events if event[0] in ("completed", "message")]
    assert ends == [("completed", free.trial_id), ("message", busy.trial_id), ("completed", busy.trial_id)]
    assert runs.result(busy.trial_id)["val_auroc"] == 0.5


def test_a_worker_keeps_its_job_from_pack_to_pack(toy, datasets, tmp_path):
    runs = Runs(tmp_path / "runs")
    with Worker(find_slots(1)[0], runs, datasets) as worker:
        pids = []
        for seed in (0, 1):
            worker.run([Step(trial=make_trial(toy, seed=seed))], lambda _: None)
            pids.append(worker.job.process.pid)
        folder = worker.job.folder
        assert folder.is_dir()
        # One that dies while it has nothing to do is replaced, and the next trial is none the worse.
        kill_children(worker.job.process.pid)
        worker.run([Step(trial=make_trial(toy, seed=2))], lambda _: None)
        pids.append(worker.job.process.pid)
    assert pids[0] == pids[1] != pids[2]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert runs.result(make_trial(toy, seed=2).trial_id)["status"] == "completed"
    assert (folder / "log").is_file(), "what killed it may stand there"


def test_a_job_that_cannot_start_fails_what_has_no_result(toy, datasets, tmp_path, monkeypatch):
    trials = [make_trial(toy, seed=seed) for seed in range(3)]
    runs, events, starts = Runs(tmp_path / "runs"), [], []
    runs.work(trials[1].trial_id)
    runs.publish(trials[1], {"status": "completed", "epochs": 2, "val_auroc": 0.5})
    monkeypatch.setattr("ttl.training.launch.sys.executable", "/bin/false")
    monkeypatch.setattr(Job, "_config", lambda self: starts.append(self) or {})
    with Worker(find_slots(1)[0], runs, datasets) as worker:
        worker.run([Step(trial=trial) for trial in trials], events.append)
    assert [event.kind for event in events] == ["failed", "completed", "failed"]
    assert runs.result(trials[1].trial_id)["status"] == "completed"
    assert "exit status 1" in runs.result(trials[2].trial_id)["error"]
    assert len(starts) == 1


@pytest.mark.parametrize("processes", [1])
def test_a_pack_that_cannot_start_fails_with_the_reason(processes, toy, datasets, tmp_path):
    trial = make_trial(toy, revision="another")
    runs = Runs(tmp_path / "runs")
    with Worker(find_slots(processes)[0], runs, datasets) as worker:
        worker.run([Step(trial=trial)], lambda _: None)
    assert "prepared anew" in runs.result(trial.trial_id)["error"]


def test_a_checkpoint_that_did_not_get_out_is_no_end_of_uploading(tmp_path, monkeypatch, caplog):
    """The training of hours goes on after an outage, and so do its copies elsewhere."""
    store = Store(str(tmp_path / "store"))
    runs = Runs(tmp_path / "runs", store)
    trial = Trial(
        dataset="toy", revision="r", backbone="b", strategy="ftl", recipe=RECIPE, image_size=32, seed=0
    )
    put, tried = Store.put_checkpoint, threading.Semaphore(0)

    def away(*arguments):
        tried.release()
        raise ServiceError("it has not answered for 300 s")

    def back(*arguments):
        put(*arguments)
        tried.release()

    worker = Worker(find_slots(1)[0], runs, tmp_path)
    with worker._uploading(trial.trial_id) as told:
        for epoch, answer in ((1, away), (2, back)):
            monkeypatch.setattr(Store, "put_checkpoint", answer)
            saved = checkpoint.save(runs.work(trial.trial_id), trial, epoch, {"epoch": epoch})
            told.set()
            assert tried.acquire(timeout=60)
    assert store.bucket.names(f".checkpoints/{trial.trial_id}") == [saved.name]
    assert "has no copy elsewhere: it has not answered" in caplog.text

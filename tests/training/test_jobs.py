"""Jobs as they are run: `accelerate launch`, one process and two."""

import threading

import numpy as np
import polars as pl
import psutil
import pytest

from ttl.models.backbones import weights_sha256
from ttl.training.launch import find_slots, run_job
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import Step, Trial

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


def test_a_trainer_that_is_killed_fails_one_trial_and_the_others_go_on(toy, datasets, tmp_path):
    # The second is long, so that it cannot end before it is killed.
    long = make_recipe({"base": "fast", "epochs": 500, "batch_size": 16})
    trials = [make_trial(toy, seed=0), make_trial(toy, seed=1, recipe=long), make_trial(toy, seed=2)]
    runs, events, killed = Runs(tmp_path / "runs"), [], []
    # Other tests' helpers, such as multiprocessing's resource tracker, live as long as this process.
    before = set(psutil.Process().children(recursive=True))

    def on_event(event):
        events.append((event.kind, event.trial_id))
        if not killed and (event.kind, event.trial_id) == ("epoch", trials[1].trial_id):
            below = set(psutil.Process().children(recursive=True)) - before
            (trainer,) = [one for one in below if "ttl.training.job" in one.cmdline() and not one.children()]
            killed.append(trainer.pid)
            trainer.kill()

    run_job(
        [Step(trial=one) for one in trials],
        runs=runs,
        datasets=datasets,
        slot=find_slots(1)[0],
        on_event=on_event,
    )
    results = [runs.result(trial.trial_id) for trial in trials]
    assert [one["status"] for one in results] == ["completed", "failed", "completed"]
    assert "SIGKILL" in results[1]["error"]
    assert events.count(("completed", trials[0].trial_id)) == 1
    assert set(psutil.Process().children(recursive=True)) <= before


def test_two_processes_score_every_sample_once_and_nearly_as_one_does(toy, datasets, tmp_path):
    runs = Runs(tmp_path / "runs")
    one, two = make_trial(toy), make_trial(toy, processes=2)
    assert one.trial_id != two.trial_id
    for trial in (one, two):
        slot = find_slots(trial.processes)[0]
        run_job([Step(trial=trial)], runs=runs, datasets=datasets, slot=slot, on_event=lambda _: None)
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


@pytest.mark.parametrize(
    ("visible", "found"),
    [("1,0", ["1", "0"]), ("GPU-8932f937,MIG-41b3", ["GPU-8932f937", "MIG-41b3"]), ("0,-1,1", ["0"])],
)
def test_gpus_are_those_that_cuda_would_use(visible, found, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.cuda for slot in find_slots(1)] == [(name,) for name in found]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_without_gpus_slots_are_cores(visible, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert {slot.device for slot in find_slots(1)} == {"cpu"}


def test_who_waits_for_another_sweep_says_so(tmp_path):
    runs, waited = Runs(tmp_path), []
    with runs.claim(["a", "b"], waited.append):
        assert not waited
        other = threading.Thread(target=lambda: runs.claim(["b"], waited.append).__enter__(), daemon=True)
        other.start()
        while not waited:
            other.join(0.01)
            assert other.is_alive()
    other.join(10)
    assert waited == ["b"]
    assert not other.is_alive()


@pytest.mark.parametrize("processes", [1])
def test_a_pack_that_cannot_start_fails_with_the_reason(processes, toy, datasets, tmp_path):
    trial = make_trial(toy, revision="another")
    runs = Runs(tmp_path / "runs")
    run_job(
        [Step(trial=trial)],
        runs=runs,
        datasets=datasets,
        slot=find_slots(processes)[0],
        on_event=lambda _: None,
    )
    assert "prepared anew" in runs.result(trial.trial_id)["error"]

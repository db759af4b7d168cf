"""Trials on a GPU: run by jobs as a sweep runs them, and by processes apart where a test looks inside."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from ttl.models.backbones import weights_sha256
from ttl.training.devices import Slot
from ttl.training.recipe import make_recipe
from ttl.training.trial import Step, Trial
from ttl.training.worker import Worker

CPU = Slot(name="cpu", keys=("cpu-0",))


def make_trial(data, *, recipe=None, **changes):
    """Return a trial of pretrained EfficientNet-Lite0, unless changed; `recipe` changes that."""
    values = {
        "dataset": data.info.name,
        "revision": data.revision,
        "backbone": "efficientnet_lite0",
        "source_sha256": weights_sha256("efficientnet_lite0", "imagenet"),
        "strategy": "ttl",
        "cut": "blocks.1",
        "recipe": make_recipe({"base": "fast", "epochs": 3, "batch_size": 16, **(recipe or {})}),
        "image_size": 32,
        "seed": 0,
    }
    if changes.get("source") == "random":
        values["source_sha256"] = ""
    return Trial(**{**values, **changes})


def train(slot, runs, datasets, *trials, on_event=lambda _: None):
    """Run trials in jobs on a slot; return their results."""
    with Worker(slot, runs, datasets) as worker:
        worker.run([Step(trial=trial) for trial in trials], on_event)
    return [runs.result(trial.trial_id) for trial in trials]


def scores(runs, trial):
    """Return the probability of the second class, by sample."""
    return np.array(runs.predictions(trial.trial_id).sort("sample_id")["scores"].to_list())[:, 1]


def apart(work, *arguments):
    """Return what a function of a module comes to in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()

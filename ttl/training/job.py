"""A job: what `accelerate launch` runs, once for each process of it. It works off steps as they come.

`python -m ttl.training.job JOB.json`. Each trial's folder appears when the trial ends. Events go to the
standard output of the first process, one line each.
"""

import gc
import importlib.metadata
import json
import logging
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from ttl.data.dataset import PackedDataset
from ttl.errors import LostLossError, TTLError
from ttl.evaluation.scoring import Scoring
from ttl.models.cost import cost, training_macs
from ttl.patience import is_full
from ttl.processes import die_with
from ttl.training.accelerator import make_accelerator
from ttl.training.events import Cause, Event, encode
from ttl.training.loop import Epoch, Scored, Trainer
from ttl.training.pixels import Pixels
from ttl.training.runs import (
    COMPLETED,
    HISTORY,
    HISTORY_SCHEMA,
    PREDICTIONS,
    RESULT,
    STOPPED,
    WEIGHTS,
    Runs,
    predictions_schema,
)
from ttl.training.trial import Step

logger = logging.getLogger("ttl.training.job")

PACKAGES = ("torch", "timm", "accelerate", "numpy")


def main(order: Path) -> None:
    """Run the steps that come on this process's pipe, until it ends; the file `order` says how and where."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    wanted = json.loads(order.read_text(encoding="utf-8"))
    die_with(wanted["parent"])
    accelerator = make_accelerator(wanted["precision"], cpu=wanted["device"] == "cpu")
    runs = Runs(Path(wanted["runs"]))
    datasets = Datasets(Path(wanted["datasets"]), accelerator.device)
    # Garbage is collected after each trial; what the imports have left is none, and need not be looked at.
    gc.collect()
    gc.freeze()

    def report(event: Event) -> None:
        # In one write: the lines of several processes do not mix.
        sys.stdout.write(encode(event) + "\n")
        sys.stdout.flush()

    with (Path(wanted["pipes"]) / str(accelerator.process_index)).open(encoding="utf-8") as steps:
        for line in steps:
            run_step(Step.from_dict(json.loads(line)), datasets, runs, accelerator, report)
    accelerator.end_training()


class Datasets:
    """The packed datasets in a folder, of which the last one used stays open: the next trial's, mostly."""

    def __init__(self, root: Path, device: torch.device) -> None:
        self.root, self.device = root, device
        self.name, self.place = "", -1
        self.pixels: Pixels | None = None

    def open(self, name: str) -> Pixels:
        """Return the pixels of a dataset; a folder that was written anew is opened anew."""
        place = (self.root / name).stat().st_ino if (self.root / name).exists() else -1
        if self.pixels is None or (name, place) != (self.name, self.place):
            # The last one's memory first.
            self.pixels = None
            self.pixels = Pixels(PackedDataset.open(self.root / name), self.device)
            self.name, self.place = name, place
        return self.pixels


def run_step(
    step: Step, datasets: Datasets, runs: Runs, accelerator: Accelerator, report: Callable[[Event], None]
) -> None:
    """Run one step to its result.

    When it fails, whichever process it is says why, and ends: the launcher then ends the others, which may
    wait for it without end, and whoever launched the job decides whether the step is tried again.
    """
    trial = step.trial
    if accelerator.is_main_process:
        report(Event(kind="started", trial_id=trial.trial_id, epochs=step.length))
    alone = runs.claim(trial.trial_id, kind="trainer") if accelerator.is_main_process else nullcontext()
    with alone, _warnings_told(trial.trial_id, report if accelerator.is_main_process else None):
        try:
            _train(step, datasets, runs, accelerator, report)
        except Exception as error:
            logger.exception("%s (%s) failed", trial.label, trial.trial_id)
            # If it has its result, what failed came after: that is no failure of the trial.
            if runs.reached(step) is None:
                failure = Event(
                    kind="failed",
                    trial_id=trial.trial_id,
                    text=describe(error),
                    cause=find_cause(error, runs.root),
                )
                report(failure)
            raise
    # In mixed precision Accelerate makes a network refer to itself: it would stay, beside the next trial's.
    gc.collect()


@contextmanager
def _warnings_told(trial_id: str, report: Callable[[Event], None] | None) -> Iterator[None]:
    """Have this library's warnings reported as messages on a trial."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if report is not None and record.levelno == logging.WARNING:
                report(Event(kind="message", trial_id=trial_id, text=record.getMessage()))

    handler, library = Handler(), logging.getLogger("ttl")
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)


def find_cause(error: BaseException, folder: Path) -> Cause:
    """Return whether what has failed may pass, and by what. `folder` is where the trial is written."""
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    return "storage" if is_full(error, folder) else ""


def describe(error: BaseException) -> str:
    """Return an error in one line: the message of our own, with its type and place for others."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, TTLError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def _train(
    step: Step, datasets: Datasets, runs: Runs, accelerator: Accelerator, report: Callable[[Event], None]
) -> None:
    trial = step.trial

    def on_epoch(epoch: Epoch) -> None:
        if accelerator.is_main_process:
            report(
                Event(
                    kind="epoch",
                    trial_id=trial.trial_id,
                    epoch=epoch.epoch,
                    epochs=step.length,
                    val_auroc=epoch.val_auroc,
                )
            )

    lost_at = 0
    while True:
        if accelerator.is_main_process:
            runs.checkpoints(trial.trial_id)
        accelerator.wait_for_everyone()
        pixels, kept = datasets.open(trial.dataset), runs.work(trial.trial_id)
        trainer = Trainer(trial, pixels, accelerator, kept, micro_batches=step.micro_batches)
        try:
            trainer.run(on_epoch, step.epochs)
            _finish(trainer, runs, report)
        except LostLossError as error:
            # All processes see it: the loss is that of all.
            epoch = len(trainer.history) + 1
            if epoch == lost_at:
                raise
            lost_at = epoch
            if accelerator.is_main_process:
                text = f"{error}; the epoch is tried once more"
                report(Event(kind="message", trial_id=trial.trial_id, text=text))
        else:
            return
        finally:
            trainer.close()


def _finish(trainer: Trainer, runs: Runs, report: Callable[[Event], None]) -> None:
    trial, accelerator = trainer.trial, trainer.accelerator
    # The test split is scored once, at the end.
    splits = ("val", "test") if trainer.finished else ("val",)
    scored = {split: trainer.score(split) for split in splits}
    if accelerator.is_main_process:
        result = summarise(trainer, scored)
        work = runs.work(trial.trial_id)
        # Of an attempt that died: it must not stand for what is written now.
        (work / RESULT).unlink(missing_ok=True)
        _predictions(trainer.dataset, scored, trainer.scoring).write_parquet(work / PREDICTIONS)
        history = [asdict(epoch) for epoch in trainer.history]
        pl.DataFrame(history, schema=HISTORY_SCHEMA).write_parquet(work / HISTORY)
        state = trainer.network.net.state_dict()
        save_file({name: value.contiguous().cpu() for name, value in state.items()}, work / WEIGHTS)
        runs.publish(trial, result)
        ended = {"epoch": result["epochs"], "val_auroc": result["val_auroc"]}
        report(Event(kind=result["status"], trial_id=trial.trial_id, **ended))
    accelerator.wait_for_everyone()


def summarise(trainer: Trainer, scored: dict[str, Scored]) -> dict[str, Any]:
    """Return what `result.json` says of a trial that was trained to its end, or stopped on the way."""
    trial, labels, scoring = trainer.trial, trainer.labels, trainer.scoring
    probabilities = {split: scoring.probabilities(one.logits) for split, one in scored.items()}
    truth = {split: labels[one.indices] for split, one in scored.items()}
    threshold = scoring.choose_threshold(truth["val"], probabilities["val"])
    measured = cost(trainer.network, trial.image_size)
    images = len(trainer.train_indices) * len(trainer.history)
    result: dict[str, Any] = {
        "status": COMPLETED if trainer.finished else STOPPED,
        "error": None,
        "epochs": len(trainer.history),
        "best_epoch": trainer.best_epoch,
        "train_seconds": sum(epoch.seconds for epoch in trainer.history),
        "train_macs": training_macs(trainer.network, trial.image_size) * images,
        **asdict(measured),
        "threshold": threshold,
    }
    for split, one in scored.items():
        metrics = asdict(scoring.evaluate(truth[split], probabilities[split], threshold))
        result[f"{split}_loss"] = trainer.objective.mean(truth[split], one.logits)
        result |= {f"{split}_{name}": value for name, value in metrics.items()}
    device = trainer.accelerator.device
    result["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    result["processes"] = trainer.world
    result["micro_batches"] = trainer.micro_batches
    result["versions"] = {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }
    return result


def _predictions(dataset: PackedDataset, scored: dict[str, Scored], scoring: Scoring) -> pl.DataFrame:
    rows = np.concatenate([one.indices for one in scored.values()])
    scores = np.concatenate([scoring.probabilities(one.logits) for one in scored.values()])
    samples = dataset.samples[rows].select("sample_id", "patient_id", "split", "label")
    return samples.with_columns(
        # The trial's, which may have been drawn anew.
        pl.Series("split", [split for split, one in scored.items() for _ in one.indices]),
        pl.Series("scores", scores.tolist(), dtype=pl.List(pl.Float64)),
    ).match_to_schema(predictions_schema(dataset.samples.schema["label"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

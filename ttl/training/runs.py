"""The folder of a trial: written aside, and visible in one step when it is whole."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ttl.errors import TrialError
from ttl.training.trial import Step, Trial

TRIAL = "trial.json"
RESULT = "result.json"
HISTORY = "history.parquet"
PREDICTIONS = "predictions.parquet"
WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint.pt"

HISTORY_SCHEMA = pl.Schema(
    {
        "epoch": pl.Int64,
        "lr": pl.Float64,
        "train_loss": pl.Float64,
        "val_loss": pl.Float64,
        "val_auroc": pl.Float64,
        "seconds": pl.Float64,
    }
)
PREDICTIONS_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "sample_id": pl.String,
    "patient_id": pl.String,
    "split": pl.String,
    "label": pl.Int64,
    "scores": pl.List(pl.Float64),
}
PREDICTIONS_SCHEMA = pl.Schema(PREDICTIONS_COLUMNS)

COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"


@dataclass(frozen=True, slots=True)
class Runs:
    """All trials' folders, under one root."""

    root: Path

    def folder(self, trial_id: str) -> Path:
        """Return the folder of a trial; it exists only when it is whole."""
        return self.root / trial_id

    def work(self, trial_id: str) -> Path:
        """Return the folder in which a trial is worked on, hidden from readers."""
        folder = self.root / ".partial" / trial_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def jobs(self) -> Path:
        """Return the folder of the jobs' files and logs."""
        folder = self.root / ".jobs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def result(self, trial_id: str) -> dict[str, Any] | None:
        """Return a trial's result, None if there is none yet."""
        path = self.folder(trial_id) / RESULT
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise TrialError(f"{path} is damaged ({error}); delete the folder to train it again") from error
        return values

    def reached(self, step: Step) -> dict[str, Any] | None:
        """Return the result for which the step need not be run: of so many epochs, and no failure."""
        result = self.result(step.trial.trial_id)
        if result is None or result["status"] == FAILED:
            return None
        enough = step.epochs is not None and result["epochs"] >= step.epochs
        return result if enough or result["status"] == COMPLETED else None

    def trial(self, trial_id: str) -> Trial:
        """Return the trial that the folder says it is."""
        return Trial.from_dict(json.loads((self.folder(trial_id) / TRIAL).read_text(encoding="utf-8")))

    def history(self, trial_id: str) -> pl.DataFrame:
        """Return a trial's epochs."""
        return pl.read_parquet(self.folder(trial_id) / HISTORY)

    def predictions(self, trial_id: str) -> pl.DataFrame:
        """Return a trial's predictions on the validation and test splits."""
        return pl.read_parquet(self.folder(trial_id) / PREDICTIONS)

    def checkpoint(self, trial_id: str) -> Path:
        """Return where a trial's state is kept while it is worked on; a stopped trial's is brought there."""
        path, stopped = self.work(trial_id) / CHECKPOINT, self.folder(trial_id) / CHECKPOINT
        if stopped.is_file() and not path.is_file():
            aside = path.with_suffix(".new")
            shutil.copyfile(stopped, aside)
            aside.replace(path)
        return path

    def publish(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Make what lies in the trial's work folder its result in one step; an earlier one goes.

        The checkpoint stays with a stopped trial, which may go on from it.
        """
        work = self.work(trial.trial_id)
        if result["status"] != STOPPED:
            (work / CHECKPOINT).unlink(missing_ok=True)
        (work / TRIAL).write_text(json.dumps(trial.to_dict(), indent=2) + "\n", encoding="utf-8")
        (work / RESULT).write_text(json.dumps(_plain(result), indent=2) + "\n", encoding="utf-8")
        for path in work.iterdir():
            _sync(path)
        final = self.folder(trial.trial_id)
        if final.exists():
            old = self.root / ".partial" / f"{trial.trial_id}.replaced-{os.getpid()}"
            final.rename(old)
            work.rename(final)
            shutil.rmtree(old)
        else:
            work.rename(final)

    def publish_failure(self, trial: Trial, reason: str) -> None:
        """Make the trial's result a failure with its reason."""
        shutil.rmtree(self.work(trial.trial_id), ignore_errors=True)
        self.publish(trial, {"status": FAILED, "error": reason})

    @contextmanager
    def claim(self, trial_id: str, *, wait: bool = True, kind: str = "sweep") -> Iterator[bool]:
        """Keep all others on this machine from working on the trial meanwhile; yield whether that is so.

        A sweep claims a trial while it has it run, and a trainer, as another `kind`, while it trains: so
        that a trainer whose sweep was killed is never joined by a second one. A claim ends with the process.
        """
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{trial_id}.{kind}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what does not exist is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _sync(path: Path) -> None:
    # Without it, a machine that loses power could keep the rename and lose the bytes.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

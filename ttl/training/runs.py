"""The folder of a trial: written aside, and visible in one step when it is whole."""

import fcntl
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from ttl.errors import TrialError
from ttl.files import sha256
from ttl.training import checkpoint
from ttl.training.store import Store
from ttl.training.trial import Step, Trial

logger = logging.getLogger(__name__)

TRIAL = "trial.json"
RESULT = "result.json"
HISTORY = "history.parquet"
PREDICTIONS = "predictions.parquet"
WEIGHTS = "model.safetensors"
FILES = "files"
"""The entry of a result that names the trial's other files, with their SHA-256."""

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


def predictions_schema(label: pl.DataType) -> pl.Schema:
    """Return the columns of predictions whose labels are of the dataset's type: one, or several."""
    return pl.Schema({**PREDICTIONS_COLUMNS, "label": label})


COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"

SMALL = (TRIAL, HISTORY, PREDICTIONS)
"""What comes from the store at once with a result; weights come when they are asked for."""


@dataclass(frozen=True, slots=True)
class Runs:
    """All trials' folders, under one root; with a `store`, a machine's copy of what several machines share.

    A trial that another machine has trained is here without its weights until `weights` asks for them.
    """

    root: Path
    store: Store | None = None

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

    def weights(self, trial_id: str) -> Path:
        """Return the file of a trial's weights. Raises `TrialError` if nobody has it any more."""
        path = self.folder(trial_id) / WEIGHTS
        if not path.is_file():
            if self.store is None:
                raise TrialError(
                    f"{path} does not exist, and no store is named where it may be: set TTL_STORE to the one "
                    "that the sweep used, or delete the folder to train the trial again"
                )
            with self._aside(trial_id) as aside:
                brought = self.store.get(trial_id, aside, [WEIGHTS])
                if brought[FILES] == (self.result(trial_id) or {}).get(FILES):
                    (aside / WEIGHTS).replace(path)
                    return path
            self._bring(trial_id, (*SMALL, WEIGHTS))
            if not path.is_file():
                raise TrialError(
                    f"{self.store.address} has not got so far with {trial_id} as {path.parent}, which lacks "
                    "its weights; delete that folder to train the trial again"
                )
        return path

    def refresh(self, trial_id: str) -> None:
        """Bring a trial's result from the store, if it has got further than the one here, or failed since."""
        here = reach(self.result(trial_id))
        if self.store is None or here == math.inf:
            return
        there = self.store.result(trial_id)
        failed = there is not None and there["status"] == FAILED and here > 0
        if failed or reach(there) > here:
            self._bring(trial_id, SMALL)

    def share(self, trial_id: str) -> None:
        """Give the store a trial's result, unless it has one that has got as far."""
        result = self.result(trial_id)
        if self.store is None or result is None:
            return
        there, folder = self.store.result(trial_id), self.folder(trial_id)
        if any(not (folder / name).is_file() for name in result[FILES]):
            if there is None:
                logger.warning("%s has lost %s, and its weights are not here", self.store.address, trial_id)
            return
        failed = result["status"] == FAILED and there is not None and there["status"] != COMPLETED
        if failed or reach(result) > reach(there):
            self.store.put(trial_id, self.folder(trial_id), result)
        if result["status"] != FAILED:
            # A stopped trial's result has its own.
            self.store.forget_checkpoints(trial_id)

    def exchange(self, trial_id: str, *, there: bool) -> None:
        """Bring what the store has of a trial, if it has it `there`, and give it what only this machine has.

        Whoever is working on the trial does so himself.
        """
        assert self.store is not None
        if there:
            self.refresh(trial_id)
        here = reach(self.result(trial_id))
        if here == reach(self.store.result(trial_id) if there else None):
            if here == math.inf:
                # Whoever shared it may have died before they went.
                self.store.forget_checkpoints(trial_id)
            return
        with self.claim(trial_id, wait=False) as claimed:
            # An end is for good: it does not wait for whoever has left a claim, and is gone.
            if claimed or here == math.inf:
                self.share(trial_id)

    def checkpoints(self, trial_id: str) -> Path:
        """Return the folder where a trial's state is kept while it is worked on.

        The newest state is brought there: of a stopped trial, and of one that another machine was at.
        """
        work = self.work(trial_id)
        known = checkpoint.found(work)
        newest = checkpoint.epoch_of(known[0].name) if known else 0
        for stopped in checkpoint.found(self.folder(trial_id)) if self.folder(trial_id).is_dir() else []:
            if checkpoint.epoch_of(stopped.name) > newest:
                aside = work / "checkpoint.new"
                shutil.copyfile(stopped, aside)
                aside.replace(work / stopped.name)
                newest = checkpoint.epoch_of(stopped.name)
        if self.store is not None:
            self.store.bring_checkpoint(trial_id, work, newer_than=newest)
            there = self.store.result(trial_id)
            if there is not None and there["status"] == STOPPED:
                names = [name for name in there[FILES] if checkpoint.epoch_of(name) > newest]
                with self._aside(trial_id) as aside:
                    self.store.get(trial_id, aside, names)
                    for path in aside.iterdir():
                        path.replace(work / path.name)
        return work

    def publish(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Make what lies in the trial's work folder its result in one step; an earlier one goes.

        The last checkpoint stays with a stopped trial, which may go on from it.
        """
        work = self.work(trial.trial_id)
        stopped = result["status"] == STOPPED
        for name in ("checkpoint.new", RESULT):
            (work / name).unlink(missing_ok=True)
        (work / TRIAL).write_text(json.dumps(trial.to_dict(), indent=2) + "\n", encoding="utf-8")
        kept = checkpoint.found(work)[: 1 if stopped else 0]
        left = {path.name for path in checkpoint.found(work)} - {path.name for path in kept}
        files = {path.name: sha256(path) for path in sorted(work.iterdir()) if path.name not in left}
        for path in work.iterdir():
            _sync(path)
        write_json(work / RESULT, _plain({**result, FILES: files}))
        self._place(trial.trial_id, work)
        # Not before: a machine that dies on the way has the checkpoints to go on from.
        for name in left:
            (self.folder(trial.trial_id) / name).unlink()

    def recover(self, trial_id: str) -> None:
        """Finish what a process that died was just publishing."""
        work = self.root / ".partial" / trial_id
        with self._locked(f"{trial_id}.place"):
            if self.result(trial_id) is not None or not (work / RESULT).is_file():
                return
            files: dict[str, str] = json.loads((work / RESULT).read_text(encoding="utf-8"))[FILES]
            whole = all(
                (work / name).is_file() and sha256(work / name) == digest for name, digest in files.items()
            )
            if whole:
                self._move(trial_id, work)
            else:
                # Another attempt has begun to write since.
                (work / RESULT).unlink()

    def tidy(self, trial_id: str) -> None:
        """Remove what an attempt has left of a trial that has its result from elsewhere."""
        shutil.rmtree(self.root / ".partial" / trial_id, ignore_errors=True)

    def _bring(self, trial_id: str, names: Sequence[str]) -> None:
        assert self.store is not None
        with self._aside(trial_id) as aside:
            brought = self.store.get(trial_id, aside, names)
            write_json(aside / RESULT, brought)
            self._place(trial_id, aside, brought=brought)

    @contextmanager
    def _aside(self, trial_id: str) -> Iterator[Path]:
        folder = self.root / ".partial" / f"{trial_id}.fetched-{uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, trial_id: str, made: Path, *, brought: Mapping[str, Any] | None = None) -> None:
        """Put a whole folder into a trial's place; what was `brought` not over what has got further here."""
        with self._locked(f"{trial_id}.place"):
            if brought is not None:
                here = reach(self.result(trial_id))
                if here > reach(brought) and (here == math.inf or brought["status"] != FAILED):
                    return
            self._move(trial_id, made)

    def _move(self, trial_id: str, made: Path) -> None:
        final, old = self.folder(trial_id), self.root / ".partial" / f"{trial_id}.replaced-{uuid4().hex[:8]}"
        there = final.exists()
        if there:
            final.rename(old)
        try:
            made.rename(final)
        except OSError:
            if there:
                old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def publish_failure(self, trial: Trial, reason: str) -> None:
        """Make the trial's result a failure with its reason."""
        shutil.rmtree(self.work(trial.trial_id), ignore_errors=True)
        self.publish(trial, {"status": FAILED, "error": reason})

    @contextmanager
    def claim(self, trial_id: str, *, wait: bool = True, kind: str = "sweep") -> Iterator[bool]:
        """Keep all others from working on the trial meanwhile; yield whether that is so.

        A sweep claims a trial while it has it run, and a trainer, as another `kind`, while it trains: so
        that a trainer whose sweep was killed is never joined by a second one. A claim ends with the process.
        """
        with self._locked(f"{trial_id}.{kind}", wait=wait) as alone:
            if not alone or self.store is None:
                yield alone
                return
            with self.store.claim(trial_id, wait=wait) as claimed:
                yield claimed

    @contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Keep this machine's other processes out meanwhile; yield whether that is so."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def reach(result: Mapping[str, Any] | None) -> float:
    """Return how far a result has got, in epochs; infinite at the end, and below any other without one."""
    if result is None:
        return -1.0
    if result["status"] == FAILED:
        return 0.0
    return math.inf if result["status"] == COMPLETED else float(result["epochs"])


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file in one step, so that it is still there when the machine loses power."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    _sync(aside)
    aside.replace(path)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what does not exist is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in values.items()}


def _sync(path: Path) -> None:
    # Without it, a machine that loses power could keep the rename and lose the bytes.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

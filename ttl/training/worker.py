"""A worker: has steps run on a slot, and again what failed for a reason that may pass."""

import logging
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ttl.errors import ServiceError, TrialError
from ttl.patience import is_full, patience
from ttl.processes import kill_children
from ttl.training import checkpoint
from ttl.training.devices import Lease, Slot
from ttl.training.events import Cause, Event
from ttl.training.launch import Job, OnEvent
from ttl.training.runs import COMPLETED, Runs
from ttl.training.trial import Step

logger = logging.getLogger(__name__)

STOPPING = threading.Event()

MOST_DEATHS = 3
"""So many times a trainer may die without having got an epoch further."""

LONGEST_PAUSE = 20.0

LOOK_SECONDS = 1.0
"""So often is looked whether another sweep is still at a trial."""

LAST_UPLOAD_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a step could not be run to its end. `began` says whether its job had got so far as to begin it."""

    text: str
    cause: Cause = ""
    began: bool = True


def stop() -> None:
    """End all jobs of this process, for good: their trials are not failed, and resume in the next sweep."""
    STOPPING.set()
    kill_children()


class Worker:
    """Runs steps on a slot, one after another, in one job that stays up: it starts when first needed.

    Use it as a context manager; at the end its job ends, and the `lease` of its devices.
    """

    def __init__(self, slot: Slot, runs: Runs, datasets: Path, lease: Lease | None = None) -> None:
        self.slot, self.runs, self.datasets, self.lease = slot, runs, datasets, lease
        self.job: Job | None = None
        self.closed = False
        self.parts: dict[tuple[str, str, str, int], int] = {}

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the job, for good; amid a step, whoever runs it is left to clear up."""
        self.closed = True
        if self.job is not None and self.job.busy:
            kill_children(self.job.process.pid)
            self.job.process.kill()
        else:
            self.close()
        if self.lease is not None:
            self.lease.release()

    def close(self) -> None:
        """End the job, if there is one; the next step starts another."""
        if self.job is not None:
            self.job.close()
            self.job = None

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> None:
        """Run steps until each has a result, failed ones included, which the store has too.

        What another sweep is working on comes last. A job that cannot even start fails all.
        Raises `ServiceError` where the store, or the disk, makes it wait too long.
        """
        waiting, deferred, broken = deque(steps), 0, ""
        while waiting:
            step = waiting.popleft()
            trial_id = step.trial.trial_id
            with self.runs.claim(trial_id, wait=False) as claimed:
                if not claimed:
                    waiting.append(step)
                    deferred += 1
                    if deferred == len(waiting):
                        text = "another sweep is at it; waiting for its end"
                        on_event(Event(kind="message", trial_id=waiting[0].trial.trial_id, text=text))
                    if deferred >= len(waiting):
                        STOPPING.wait(LOOK_SECONDS / len(waiting))
                        self._check_stopped()
                    continue
                deferred = 0
                self.runs.recover(trial_id)
                self.runs.refresh(trial_id)
                if (result := self.runs.reached(step)) is not None:
                    # Whoever had it may have died before the store had it.
                    self.runs.share(trial_id)
                    if result["status"] == COMPLETED:
                        self.runs.tidy(trial_id)
                    ended = {"epoch": result["epochs"], "val_auroc": result["val_auroc"]}
                    on_event(Event(kind=result["status"], trial_id=trial_id, **ended))
                    continue
                failure = Failure(text=broken) if broken else self._try(step, on_event)
                if failure is not None:
                    broken = "" if failure.began and not broken else failure.text
                    self.runs.publish_failure(step.trial, failure.text)
                self.runs.share(trial_id)
                if failure is not None:
                    on_event(Event(kind="failed", trial_id=trial_id, text=failure.text))

    def _try(self, step: Step, on_event: OnEvent) -> Failure | None:
        """Run one step, from its last checkpoint again where that may help; return why it failed for good."""
        trial_id = step.trial.trial_id
        tries = _Tries(self.runs.root)

        def heard(event: Event) -> None:
            if event.kind == "epoch":
                tries.reached(event.epoch)
            on_event(event)

        while True:
            self._check_stopped()
            failure = self._run(step, heard)
            self._check_stopped()
            # It may have been killed between publishing a result and saying so.
            if failure is None or self.runs.reached(step) is not None:
                return None
            if failure.cause == "memory" and (parts := self._more_parts(step)):
                text = f"out of memory; again with each batch in {parts} parts"
            elif not (text := tries.again(failure)):
                return failure
            if text != tries.said:
                on_event(Event(kind="message", trial_id=trial_id, text=f"{text} ({failure.text})"))
            tries.said = text
            STOPPING.wait(tries.pause)

    def _run(self, step: Step, on_event: OnEvent) -> Failure | None:
        """Run one step once."""
        trial = step.trial
        assert trial.processes == self.slot.processes, f"{trial.label} on slot {self.slot.name}"
        step = replace(step, micro_batches=self.parts.get(_kind(step), 1))
        if self.job is not None and self.job.precision != trial.recipe.precision:
            self.close()
        try:
            self.runs.checkpoints(trial.trial_id)
            while True:
                fresh = self.job is None
                if self.job is None:
                    fds = self.lease.fds if self.lease else ()
                    self.job = Job(self.slot, trial.recipe.precision, self.runs, self.datasets, fds)
                job = self.job
                with self._uploading(trial.trial_id) as there_is_one:
                    end = job.run(step, _both(there_is_one, on_event))
                if end is not None and end.kind != "failed":
                    return None
                # What a failure has left of a device's state is not for the next trial.
                reason = job.close(keep_log=end is not None)
                self.job = None
                if end is not None:
                    return Failure(text=end.text, cause=end.cause)
                # A job that died while it had nothing to do is no fault of this step's.
                if job.began or fresh:
                    killed = job.began or "SIG" in (reason or "")
                    text = reason or "the job ended before the trial did"
                    return Failure(text=text, cause="death" if killed else "", began=job.began)
                self._check_stopped()
        except OSError as error:
            self.close()
            if not is_full(error, self.runs.root):
                raise
            return Failure(text=f"{type(error).__name__}: {error}", cause="storage")

    @contextmanager
    def _uploading(self, trial_id: str) -> Iterator[threading.Event]:
        """Give the store each new checkpoint, when told that there is one, while the training goes on."""
        told, ended = threading.Event(), threading.Event()
        if self.runs.store is None:
            yield told
            return
        store, work, sent = (
            self.runs.store,
            self.runs.work(trial_id),
            set(checkpoint.found(self.runs.work(trial_id))),
        )

        def upload() -> None:
            while True:
                told.wait()
                told.clear()
                if ended.is_set():
                    return
                newest = checkpoint.found(work)[:1]
                for path in set(newest) - sent:
                    try:
                        store.put_checkpoint(trial_id, path)
                        sent.add(path)
                        if ended.is_set() and store.result(trial_id) is not None:
                            # It came after the result, which had removed those before it.
                            store.forget_checkpoint(trial_id, path.name)
                    except FileNotFoundError:
                        # A newer one has taken its place meanwhile.
                        told.set()
                    except ServiceError as error:
                        # The training goes on, and its next checkpoint is tried.
                        logger.warning("%s has no copy elsewhere: %s", path.name, error)

        thread = threading.Thread(target=upload, name=f"checkpoints-{trial_id}", daemon=True)
        thread.start()
        try:
            yield told
        finally:
            ended.set()
            told.set()
            # The result has what the last checkpoint has: of a storage that is silent, it is not waited for.
            thread.join(LAST_UPLOAD_SECONDS)

    def _more_parts(self, step: Step) -> int:
        """Return in how many parts a process is to work on its share of a batch, 0 if no more can be."""
        parts = 2 * self.parts.get(_kind(step), 1)
        if 2 * parts * step.trial.processes > step.trial.recipe.batch_size:
            return 0
        self.parts[_kind(step)] = parts
        return parts

    def _check_stopped(self) -> None:
        if STOPPING.is_set() or self.closed:
            raise TrialError("the sweep was stopped")


class _Tries:
    """How often a step was tried, and whether it is worth another try."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.deaths = 0
        self.pause = self.waited = 0.0
        self.furthest = 0
        self.said = ""

    def reached(self, epoch: int) -> None:
        """Count anew if the step has got further than ever: not for an epoch that it repeats."""
        if epoch > self.furthest:
            self.furthest = epoch
            self.deaths = 0
            self.pause = self.waited = 0.0

    def again(self, failure: Failure) -> str:
        """Return what is done about a failure after `pause` seconds; nothing if it is for good."""
        if failure.cause == "death":
            self.deaths += 1
            return "the trainer died; again from its last epoch" if self.deaths < MOST_DEATHS else ""
        if failure.cause == "storage":
            if self.waited > patience():
                free = shutil.disk_usage(self.root).free / 1e6
                raise ServiceError(
                    f"{self.root} has had no room for {self.waited:.0f} s ({failure.text}; {free:.0f} MB are "
                    "free); make room, and give the same command again: it goes on from there"
                )
            self.pause = min(2 * self.pause or 1.0, LONGEST_PAUSE)
            self.waited += self.pause
            return f"{self.root} has no room; tried again until there is"
        return ""


def _both(told: threading.Event, on_event: OnEvent) -> OnEvent:
    def heard(event: Event) -> None:
        told.set()
        on_event(event)

    return heard


def _kind(step: Step) -> tuple[str, str, str, int]:
    trial = step.trial
    return trial.backbone, trial.strategy, trial.cut, trial.image_size

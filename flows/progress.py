"""What a person sees of a sweep while it runs."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ttl.search.outcome import Outcome
from ttl.training.events import ENDS, Event
from ttl.training.trial import Step, Trial


class Listener(Protocol):
    """Whoever follows a sweep. Calls come from several threads."""

    def planned(self, steps: list[Step], places: Sequence[str], running: int) -> None:
        """Take note of the steps that wait for a place, beside so many that are running or about to."""

    def happened(self, place: str, event: Event) -> None:
        """Take note of what a job has reported."""

    def said(self, text: str) -> None:
        """Take note of something that a person should know."""

    def finished(self, outcome: Outcome) -> None:
        """Take note of what the sweep has come to."""


def artifact_key(kind: str, dataset: str) -> str:
    """Return the key of an artifact on a dataset, in the letters that Prefect allows."""
    return f"ttl-{kind}-{dataset.replace('_', '-').lower()}"


_PRESENT: ContextVar[Listener] = ContextVar("_PRESENT")


def listen(listener: Listener) -> None:
    """Have the flows of this context followed by a listener."""
    # Not a variable of the flow's module: that goes with the flow to a cluster's machines, and this cannot.
    _PRESENT.set(listener)


def present_listener() -> Listener | None:
    """Return who follows the flows of this context, if anybody does."""
    return _PRESENT.get(None)


class Log:
    """A listener that writes lines to a logger: of a run that nobody watches at a terminal."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.logger = logger
        self.labels: dict[str, str] = {}

    def planned(self, steps: list[Step], places: Sequence[str], running: int) -> None:
        """Write how much there is to do."""
        self.labels |= {step.trial.trial_id: step.trial.label for step in steps}
        if steps:
            self.logger.info(
                "%d to run, %d running, on %d: %s", len(steps), running, len(places), ", ".join(places)
            )

    def happened(self, place: str, event: Event) -> None:
        """Write how a trial has ended, and what went wrong."""
        label = self.labels.get(event.trial_id, event.trial_id)
        if event.kind == "failed":
            self.logger.error("%s: failed: %s", label, event.text)
        elif event.kind == "message":
            self.logger.warning("%s: %s: %s", place, label, event.text)
        elif event.kind in ENDS:
            self.logger.info(
                "%s: %s after %d epochs, validation AUROC %.4f",
                label,
                event.kind,
                event.epoch,
                event.val_auroc,
            )

    def said(self, text: str) -> None:
        """Write it."""
        self.logger.warning("%s", text)

    def finished(self, outcome: Outcome) -> None:
        """Write what was selected."""
        for name, one in outcome.selections.items():
            chosen = one["chosen"]
            self.logger.info(
                "%s: selected %s %s, %d parameters", name, chosen["strategy"], chosen["cut"], chosen["params"]
            )
        for name, reason in outcome.unselected.items():
            self.logger.warning("%s: no model was selected: %s", name, reason)
        for name, reason in outcome.experiments.items():
            self.logger.info("%s: an experiment: %s", name, reason)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Have the library's warnings said to the listener: of a storage that does not answer, for one."""
    handler = _Warnings(listener)
    logger = logging.getLogger("ttl")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Warnings(logging.Handler):
    def __init__(self, listener: Listener) -> None:
        super().__init__(level=logging.WARNING)
        self.listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self.listener.said(record.getMessage())


class Display:
    """Progress on the terminal: a bar and a line a slot; a line a trial where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self.lock = threading.Lock()
        self.trials: dict[str, Trial] = {}
        self.started: dict[str, float] = {}
        self.lines: dict[str, TaskID] = {}
        self.done = self.asked = 0
        self.outcome: Outcome | None = None
        self.total = self.progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self.live:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; what was drawn goes."""
        if self.live:
            self.progress.stop()

    def planned(self, steps: list[Step], places: Sequence[str], running: int) -> None:
        """Show how much there is to do, as far as is known: a planner may ask for more, or for less."""
        with self.lock:
            self.trials |= {step.trial.trial_id: step.trial for step in steps}
            first = not self.asked
            self.asked = self.done + running + len(steps)
            self.progress.update(self.total, description="trials", total=self.asked, completed=self.done)
            if not steps or not first:
                return
            many, trial_s = "" if len(places) == 1 else "s", "trials" if len(steps) > 1 else "trial"
            self.console.print(
                f"{len(steps)} {trial_s} to run on {len(places)} slot{many} "
                f"({', '.join(places) or 'none is free yet'}); starting the trainers takes a while",
                highlight=False,
            )

    def happened(self, place: str, event: Event) -> None:
        """Show what a job has reported."""
        with self.lock:
            trial = self.trials[event.trial_id]
            if place not in self.lines:
                self.lines[place] = self.progress.add_task(place, total=None)
            line = self.lines[place]
            if event.kind == "message":
                text = f"{place}: {trial.label}: {event.text}"
                self.console.print(text, highlight=False, markup=False, soft_wrap=True)
                return
            if event.kind == "started":
                self.started[event.trial_id] = time.monotonic()
            if event.kind in ("started", "epoch"):
                text = f"{place}: {trial.label}"
                self.progress.update(line, description=text, completed=event.epoch, total=event.epochs)
                return
            self.done += 1
            self.progress.update(self.total, completed=self.done)
            began = self.started.get(event.trial_id)
            # Of a trial elsewhere, or done before, only the end is heard.
            took = "" if began is None else f"  {time.monotonic() - began:.0f} s"
            place = f"[{self.done:>{len(str(self.asked))}}/{self.asked}]"
            if event.kind == "failed":
                what = f"failed: {event.text}"
            else:
                so_far = f" after {event.epoch} epochs" if event.kind == "stopped" else ""
                what = f"validation AUROC {event.val_auroc:.4f}{so_far}{took}"
            style = "red" if event.kind == "failed" else None
            self.console.print(
                f"{place} {trial.label}  {what}", style=style, highlight=False, markup=False, soft_wrap=True
            )

    def said(self, text: str) -> None:
        """Show it."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def finished(self, outcome: Outcome) -> None:
        """Keep the outcome for whoever asked for the sweep."""
        self.outcome = outcome

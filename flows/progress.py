"""What a person sees of a sweep while it runs."""

import threading
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ttl.search.outcome import Outcome
from ttl.training.events import Event
from ttl.training.launch import Slot
from ttl.training.trial import Step, Trial


class Listener(Protocol):
    """Whoever follows a sweep. Calls come from several threads."""

    def planned(self, steps: list[Step], slots: tuple[Slot, ...], running: int) -> None:
        """Take note of the steps that wait for a slot, beside so many that are running or about to."""

    def happened(self, slot: Slot, event: Event) -> None:
        """Take note of what a job has reported."""

    def finished(self, outcome: Outcome) -> None:
        """Take note of what the sweep has come to."""


class Nobody:
    """A listener that does nothing: Prefect's records are enough."""

    def planned(self, steps: list[Step], slots: tuple[Slot, ...], running: int) -> None:
        """Do nothing."""

    def happened(self, slot: Slot, event: Event) -> None:
        """Do nothing."""

    def finished(self, outcome: Outcome) -> None:
        """Do nothing."""


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

    def planned(self, steps: list[Step], slots: tuple[Slot, ...], running: int) -> None:
        """Show how much there is to do, as far as is known: a planner may ask for more, or for less."""
        with self.lock:
            self.trials |= {step.trial.trial_id: step.trial for step in steps}
            first = not self.asked
            self.asked = self.done + running + len(steps)
            self.progress.update(self.total, description="trials", total=self.asked, completed=self.done)
            if not steps or not first:
                return
            many, trial_s = "s" if len(slots) > 1 else "", "trials" if len(steps) > 1 else "trial"
            self.console.print(
                f"{len(steps)} {trial_s} to run on {len(slots)} slot{many} "
                f"({', '.join(slot.name for slot in slots)}); starting the trainers takes a while",
                highlight=False,
            )

    def happened(self, slot: Slot, event: Event) -> None:
        """Show what a job has reported."""
        with self.lock:
            trial = self.trials[event.trial_id]
            if slot.name not in self.lines:
                self.lines[slot.name] = self.progress.add_task(slot.name, total=None)
            line = self.lines[slot.name]
            if event.kind == "message":
                self.console.print(f"{slot.name}: {trial.label}: {event.text}", highlight=False, markup=False)
                return
            if event.kind == "started":
                self.started[event.trial_id] = time.monotonic()
            if event.kind in ("started", "epoch"):
                text = f"{slot.name}: {trial.label}"
                self.progress.update(line, description=text, completed=event.epoch, total=event.epochs)
                return
            self.done += 1
            self.progress.update(self.total, completed=self.done)
            seconds = time.monotonic() - self.started.get(event.trial_id, time.monotonic())
            place = f"[{self.done:>{len(str(self.asked))}}/{self.asked}]"
            if event.kind == "failed":
                what = f"failed: {event.text}"
            else:
                so_far = f" after {event.epoch} epochs" if event.kind == "stopped" else ""
                what = f"validation AUROC {event.val_auroc:.4f}{so_far}  {seconds:.0f} s"
            style = "red" if event.kind == "failed" else None
            self.console.print(
                f"{place} {trial.label}  {what}", style=style, highlight=False, markup=False, soft_wrap=True
            )

    def finished(self, outcome: Outcome) -> None:
        """Keep the outcome for whoever asked for the sweep."""
        self.outcome = outcome

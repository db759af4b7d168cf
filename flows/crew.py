"""Who runs packs of steps: this machine's devices, or a Ray cluster's. A pack is one Prefect task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows.progress import Listener
from ttl.errors import TrialError
from ttl.layout import Layout
from ttl.training.devices import MOST_CPU_SLOTS, Taken, find_slots, take
from ttl.training.trial import Step
from ttl.training.worker import Worker

Pack = list[Step]

LOOK_SECONDS = 1.0
"""So often a device that others use, or a cluster that has lost a machine, is looked at again."""


class Crew(ABC):
    """Runs packs, several at once. Use it as a context manager: at its end, all that it has started ends."""

    def __init__(self) -> None:
        self.running: dict[Any, Pack] = {}
        self.done: Queue[Any] = Queue()

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs."""

    @abstractmethod
    def places(self, wanted: int) -> tuple[str, ...]:
        """Return where packs run, idle or not, as far as so many places are of use."""

    @abstractmethod
    def start(self, pack: Pack) -> None:
        """Have a pack run. There must be an idle place."""

    @abstractmethod
    def collect(self, future: Any) -> bool:
        """Take note of a pack that has ended; return whether it was run to its end, whatever became of it.

        Raises what ended it, if that ends the sweep too.
        """

    def ended(self) -> list[tuple[Pack, bool]]:
        """Wait a little, and return the packs that have ended, each with whether it was run to its end."""
        found: list[Any] = []
        try:
            found.append(self.done.get(timeout=LOOK_SECONDS))
        except Empty:
            # A task may have been given up before it began: then nobody calls.
            found += [one for one in self.running if _given_up(one)]
        return [(self.running.pop(one), self.collect(one)) for one in found if one in self.running]

    def _follow(self, future: PrefectFuture[Any], pack: Pack) -> None:
        self.running[future] = pack
        future.add_done_callback(self.done.put)


def _given_up(future: PrefectFuture[Any]) -> bool:
    try:
        return future.state.is_final()
    except httpx.HTTPError:
        # The server, or its database, is away: asked again soon, and meanwhile the pack runs.
        return False


class Here(Crew):
    """The devices of this machine: each slot has a worker, whose job stays up from pack to pack."""

    def __init__(
        self, layout: Layout, listener: Listener, *, processes: int, limit: int | None, wait: bool
    ) -> None:
        super().__init__()
        self.layout, self.listener, self.wait = layout, listener, wait
        self.free = list(find_slots(processes))
        self.limit = limit or (len(self.free) if self.free[0].cuda else MOST_CPU_SLOTS)
        self.workers: list[Worker] = []
        self.busy: dict[Any, Worker] = {}
        self.seen: set[str] = set()
        self.last = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, and with them their leases."""
        for worker in [*self.workers, *self.busy.values()]:
            worker.__exit__()

    def places(self, wanted: int) -> tuple[str, ...]:
        """Return the slots that are leased, once those that are free and of use are leased too.

        Raises `TrialError` if there is none, and none is waited for.
        """
        self._lease(min(wanted, self.limit))
        names = tuple(worker.slot.name for worker in [*self.workers, *self.busy.values()])
        if not names and not self.wait:
            raise TrialError(f"every device is taken ({self.last}); `--busy wait` waits for one")
        return names

    def start(self, pack: Pack) -> None:
        """Have a pack run by an idle worker."""
        worker = self.workers.pop(0)
        future = run_pack.submit(title(pack), pack, worker, self.listener)
        self.busy[future] = worker
        self._follow(future, pack)

    def collect(self, future: Any) -> bool:
        """Take note of a pack that has ended."""
        self.workers.append(self.busy.pop(future))
        future.result()
        return True

    def _lease(self, most: int) -> None:
        have = len(self.workers) + len(self.busy)
        for slot in list(self.free):
            if have >= most:
                return
            lease = take(slot)
            if isinstance(lease, Taken):
                self.last = f"{slot.name} by {lease.by}"
                if self.wait and slot.name not in self.seen:
                    self.listener.said(f"{slot.name} is taken by {lease.by}: waiting for it")
                self.seen.add(slot.name)
                if not self.wait:
                    self.free.remove(slot)
                continue
            self.free.remove(slot)
            worker = Worker(slot, self.layout.runs, self.layout.datasets, lease)
            self.workers.append(worker)
            have += 1


def title(pack: Sequence[Step]) -> str:
    """Return what a pack is called in Prefect's history."""
    return pack[0].trial.label if len(pack) == 1 else f"{len(pack)} trials, {pack[0].trial.label} first"


@task(name="pack", task_run_name="{title}", cache_policy=NO_CACHE)
def run_pack(title: str, steps: Pack, worker: Worker, listener: Listener) -> None:
    """Run a pack of steps on a worker of this process."""
    worker.run(steps, lambda event: listener.happened(worker.slot.name, event))

"""The Prefect flow `ttl-sweep`: plan, fan jobs out over the machine's slots, aggregate, select."""

from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.progress import Listener, Nobody
from ttl.layout import Layout
from ttl.params import FILE, load_params
from ttl.search import results
from ttl.search.outcome import Outcome
from ttl.sweep import Sweep
from ttl.training.launch import Worker
from ttl.training.trial import Step

LISTENER: ContextVar[Listener] = ContextVar("LISTENER")

Running = dict[Worker, tuple[PrefectFuture[None], list[Step]]]
"""What each worker is at, and the task that it does it for."""

RUNNER: Any = ThreadPoolTaskRunner(max_workers=64)


@flow(name="ttl-sweep", task_runner=RUNNER)
def ttl_sweep(  # noqa: PLR0917 - Prefect calls it by keyword
    datasets: list[str] | None = None,
    backbones: list[str] | None = None,
    sources: list[str] | None = None,
    strategies: list[str] | None = None,
    granularity: str | None = None,
    planner: str | None = None,
    seeds: list[int] | None = None,
    recipe: str | dict[str, Any] | None = None,
    image_size: int | None = None,
    processes: int | None = None,
    slots: int | None = None,
) -> dict[str, Any]:
    """Run a sweep in the current folder, with `params.yaml`; what is given here overrides its `sweep`.

    Returns a summary as plain values.
    """
    given = dict(locals())
    overrides = {name: value for name, value in given.items() if value is not None}
    sweep = Sweep(load_params(FILE, overrides), Layout(root=Path.cwd()), merge=bool(overrides))
    listener = LISTENER.get(Nobody())
    run_planned(sweep, listener)
    outcome = sweep.finish()
    create_table_artifact(
        key="ttl-leaderboard",
        table=results.leaderboard(outcome.trials).drop("granularity", "source").to_dicts(),
        description="Mean and deviation over seeds; results/trials.parquet has every trial.",
    )
    listener.finished(outcome)
    return summary(outcome)


def run_planned(sweep: Sweep, listener: Listener) -> None:
    """Run what the planner asks for, until it asks for nothing more.

    Each slot has a worker, whose job stays up. The planner is asked again whenever a worker is free.
    """
    slots = sweep.slots()
    free: Queue[Worker] = Queue()
    with ExitStack() as stack:
        idle = [stack.enter_context(Worker(slot, sweep.layout.runs, sweep.layout.datasets)) for slot in slots]
        running: Running = {}
        while True:
            steps = sweep.pending()
            ahead = sum(len(sweep.unfinished(pack)) for _, pack in running.values())
            listener.planned(steps, slots, ahead)
            for pack in sweep.packs(steps, len(slots))[: len(idle)]:
                worker = idle.pop(0)
                sweep.hand(pack)
                running[worker] = run_pack.submit(title(pack), pack, worker, free, listener), pack
            if not running:
                return
            worker = next_free(free, running)
            idle.append(worker)
            future, pack = running.pop(worker)
            future.result()
            sweep.take_back(pack)


def next_free(free: "Queue[Worker]", running: Running) -> Worker:
    """Return the worker whose pack is done. Prefect may end a task that never came to its body."""
    while True:
        try:
            worker = free.get(timeout=1)
        except Empty:
            ended = [worker for worker, (future, _) in running.items() if future.state.is_final()]
            if not ended:
                continue
            worker = ended[0]
        if worker in running:
            return worker


def title(pack: list[Step]) -> str:
    """Return what a pack is called in Prefect's history."""
    return pack[0].trial.label if len(pack) == 1 else f"{len(pack)} trials, {pack[0].trial.label} first"


@task(name="pack", task_run_name="{title}", cache_policy=NO_CACHE)
def run_pack(
    title: str, steps: list[Step], worker: Worker, free: "Queue[Worker]", listener: Listener
) -> None:
    """Run a pack of steps on a worker, and give it back."""
    try:
        worker.run(steps, lambda event: listener.happened(worker.slot, event))
    finally:
        free.put(worker)


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return what a caller over Prefect's API needs to know of a sweep."""
    return {
        "trials": outcome.trials.height,
        "failed": outcome.failed,
        "selected": {
            name: {key: one["chosen"][key] for key in ("backbone", "strategy", "cut", "params")}
            for name, one in outcome.selections.items()
        },
        "unselected": dict(outcome.unselected),
    }

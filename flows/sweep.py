"""The Prefect flow `ttl-sweep`: plan, fan packs of trials out over devices or machines, aggregate, select."""

from pathlib import Path
from typing import Any

import polars as pl
from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from flows.crew import Crew, Here
from flows.datasets import pull_dataset
from flows.progress import Listener, Log, heard, present_listener
from ttl.errors import ServiceError
from ttl.layout import Layout
from ttl.params import FILE, changes_results, load_params
from ttl.search import results
from ttl.search.outcome import Outcome
from ttl.sweep import Sweep
from ttl.tables import marked

MOST_STARTS = 6
"""So often a deployment's run may be started, once for each crash before: then something else is wrong."""

FIRST = (
    "mark",
    "dataset",
    "backbone",
    "strategy",
    "cut",
    "val_auroc_mean",
    "test_auroc_mean",
    "params",
    "macs",
)
"""The leaderboard's columns that a person sees without scrolling."""

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
    optimizers: list[str] | None = None,
    heads: list[str] | None = None,
    shares: list[float] | None = None,
    resplit: str | None = None,
    image_size: int | None = None,
    processes: int | None = None,
    slots: int | None = None,
    executor: str | None = None,
    busy: str | None = None,
    resource: str | None = None,
) -> dict[str, Any]:
    """Run a sweep in the current folder, with `params.yaml`; what is given here overrides its `sweep`.

    As a deployment's run it has the repository alone: it pulls the datasets that it needs, and its results go
    to the store that TTL_STORE names. Returns a summary as plain values.
    """
    given = dict(locals())
    overrides = {name: value for name, value in given.items() if value is not None}
    params, layout = load_params(FILE, overrides), Layout(root=Path.cwd())
    listener = present_listener() or Log(get_run_logger())
    with heard(listener):
        if runtime.deployment.id:
            if runtime.flow_run.run_count > MOST_STARTS:
                raise ServiceError(f"the run has crashed {MOST_STARTS} times; see its logs, and the worker's")
            if layout.runs.store is None:
                raise ServiceError(
                    "TTL_STORE is not set on this worker: its folder goes with the run, and the results with "
                    "it. Name a bucket or a folder that all workers share, such as s3://ttl/runs"
                )
            for name in params.datasets:
                pull_dataset(name, layout)
        sweep = Sweep(params, layout, merge=changes_results(overrides))
        with make_crew(sweep, listener) as crew:
            run_planned(sweep, crew, listener)
        outcome = sweep.finish()
    create_table_artifact(
        key="ttl-leaderboard",
        table=artifact_rows(outcome),
        description="Mean and deviation over seeds; results/trials.parquet has every trial.",
    )
    listener.finished(outcome)
    return summary(outcome)


def run_planned(sweep: Sweep, crew: Crew, listener: Listener) -> None:
    """Run what the planner asks for, until it asks for nothing more; asked whenever a pack has ended."""
    asked = True
    steps = sweep.pending()
    while steps or crew.running:
        places = crew.places(len(steps) + len(crew.running))
        if asked:
            ahead = sum(len(sweep.unfinished(pack)) for pack in crew.running.values())
            listener.planned(steps, places, ahead)
        idle = max(0, len(places) - len(crew.running))
        started = sweep.packs(steps, max(1, len(places)))[:idle]
        for pack in started:
            sweep.hand(pack)
            crew.start(pack)
        ended = crew.ended()
        for pack, whole in ended:
            if whole:
                sweep.take_back(pack)
            else:
                sweep.give_up(pack)
        asked = bool(started or ended)
        if asked:
            steps = sweep.pending()


def make_crew(sweep: Sweep, listener: Listener) -> Crew:
    """Return who runs the sweep's packs, as its settings say."""
    wanted, layout = sweep.params.sweep, sweep.layout
    if wanted.executor == "ray":
        from flows.cluster import Cluster  # noqa: PLC0415 - for those with a cluster alone

        return Cluster(
            layout,
            listener,
            processes=wanted.processes,
            limit=wanted.slots,
            resource=wanted.resource,
            revisions=dict(sweep.space.datasets),
        )
    return Here(layout, listener, processes=wanted.processes, limit=wanted.slots, wait=wanted.busy == "wait")


def artifact_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the leaderboard with the mark of what was selected, first what is seen without scrolling."""
    board = results.leaderboard(outcome.trials)
    marks = [marked(row, outcome.selections.get(row["dataset"])) for row in board.iter_rows(named=True)]
    shown = board.with_columns(pl.Series("mark", marks, pl.String)).select(*FIRST, pl.exclude(*FIRST))
    return shown.to_dicts()


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
        "experiments": dict(outcome.experiments),
    }

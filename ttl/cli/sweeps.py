"""`ttl sweep`, and what it leaves: the leaderboard and the report."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ttl.cli.shared import Json, console, show
from ttl.data.fields import parse

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415


def sweep(  # noqa: PLR0917 - typer calls it by keyword
    dataset: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help="A model of timm, or r3d_18 and its like; repeatable.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="imagenet, kinetics, random or a weights file; repeatable.")
    ] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="ftl, ttl, lwft or tf; repeatable.")] = None,
    granularity: Annotated[str | None, typer.Option(help="stage or block.")] = None,
    planner: Annotated[str | None, typer.Option(help="exhaustive, two-stage or race.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="fast, paper, or YAML such as '{base: fast, epochs: 12}'.")
    ] = None,
    optimizer: Annotated[list[str] | None, typer.Option(help="adam, adamw or sgd; repeatable.")] = None,
    head: Annotated[list[str] | None, typer.Option(help="pooled or flattened; repeatable.")] = None,
    share: Annotated[
        list[float] | None, typer.Option(help="Of the training data, such as 0.1; repeatable, nested.")
    ] = None,
    resplit: Annotated[
        str | None, typer.Option(help="Each seed divides anew: none, val (test stays) or all.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes (GPUs) of one trial.")] = None,
    slots: Annotated[int | None, typer.Option(help="Jobs at once; as many as fit if not given.")] = None,
    executor: Annotated[str | None, typer.Option(help="local, or ray: an existing Ray cluster.")] = None,
    busy: Annotated[str | None, typer.Option(help="Devices that others use: wait or skip.")] = None,
    resource: Annotated[
        str | None, typer.Option(help="What stands for a device in Ray without GPUs.")
    ] = None,
) -> None:
    """Train what has no result yet, compare, and select; options override params.yaml for this run.

    Without options the tables in results/ are this sweep's alone; with options the other datasets' rows
    stay. An interrupted sweep goes on where it was when it is asked for again.
    """
    from ttl import tables
    from ttl.layout import Layout
    from ttl.params import FILE, changes_results, load_params
    from ttl.processes import die_with
    from ttl.search.outcome import current, fingerprint

    # DVC starts stages in a shell: when it is killed, nothing else would tell us.
    if os.environ.get("DVC_STAGE"):
        die_with(os.getppid())
    overrides: dict[str, Any] = {
        "datasets": dataset,
        "backbones": backbone,
        "sources": source,
        "strategies": strategy,
        "granularity": granularity,
        "planner": planner,
        "seeds": seed,
        "recipe": _recipe(recipe),
        "optimizers": optimizer,
        "heads": head,
        "shares": share,
        "resplit": resplit,
        "image_size": image_size,
        "processes": processes,
        "slots": slots,
        "executor": executor,
        "busy": busy,
        "resource": resource,
    }
    overrides = {name: value for name, value in overrides.items() if value is not None and value != []}
    if planner == "two-stage" and granularity:
        console.print("note: planner two-stage looks at stages, then blocks: --granularity is not used")
    layout, params, merge = Layout(root=Path.cwd()), load_params(FILE, overrides), changes_results(overrides)
    outcome = current(params, layout, fingerprint(params, layout, merge=merge))
    trained = False
    if outcome is None:
        from ttl.sweep import Sweep

        planned = Sweep(params, layout, merge=merge)
        trained = bool(planned.pending())
        outcome = run_sweep(overrides, layout) if trained else planned.finish()
    if not trained:
        console.print(f"all {outcome.trials.height} trials have results; there is nothing to train")
    tables.print_outcome(console, outcome, layout)
    if outcome.lost_strategies or outcome.unselected:
        raise typer.Exit(1)


def leaderboard(
    dataset: Annotated[list[str] | None, typer.Option(help="Repeatable; all if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Print the last sweep's models, the best validation AUROC first."""
    import polars as pl

    from ttl import tables
    from ttl.layout import Layout
    from ttl.search import results

    folder = Layout(root=Path.cwd()).results
    trials = results.read_trials(folder)
    results.check_known(trials, "dataset", dataset)
    board = results.leaderboard(trials)
    if dataset:
        board = board.filter(pl.col("dataset").is_in(dataset))
    if as_json:
        known = results.read_entries(folder)
        rows = [{**row, "synthetic": known[row["dataset"]]["data"]["synthetic"]} for row in board.to_dicts()]
        show(rows, None, as_json)
    else:
        tables.print_leaderboard(console, board, results.read_entries(folder))


def report(
    out: Annotated[Path, typer.Option(help="The folder to write index.html in.")] = Path("reports"),
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            help="Show single images, with their ids. If not given: of synthetic datasets alone.",
        ),
    ] = None,
) -> None:
    """Write the report: one HTML page that needs no network, below 10 MB.

    Pages are sent on. So single images, which may be patients', are shown only where you say --pictures.
    """
    from ttl.layout import Layout
    from ttl.release.report import write_report

    page = write_report(Layout(root=Path.cwd()), out, pictures=pictures)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def run_sweep(overrides: dict[str, Any], layout: Any) -> Any:
    """Run the sweep of the current folder, with a display, and return its outcome."""
    from flows.server import prefect_api

    def interrupt(number: int, _: FrameType | None) -> None:
        from ttl.training.worker import stop

        stop()
        os.write(2, b"\nstopped; what is finished is kept, and the same command goes on from there\n")
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    with prefect_api(layout.logs / "prefect", layout.logs / "prefect.log"):
        # Prefect reads its settings when it is imported: after `prefect_api` has made them.
        from flows.progress import Display, listen
        from flows.sweep import ttl_sweep

        with Display(console) as display, ThreadPoolExecutor(1, "flow") as aside:
            listen(display)
            # Not in this thread: there Prefect would take the signals, and wait until all jobs have ended.
            context = copy_context()
            aside.submit(lambda: context.run(lambda: ttl_sweep(**overrides))).result()
    assert display.outcome is not None
    return display.outcome


def _recipe(text: str | None) -> Any:
    return None if text is None else parse(text, where=f"--recipe {text!r}")

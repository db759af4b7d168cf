"""The command line, `ttl …`: it reads what was typed, calls the library, and prints."""

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from ttl.errors import ParamsError, TTLError

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Datasets: list, prepare, check.")
models_app = typer.Typer(invoke_without_command=True, help="The registry: releases and their stages.")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

# Where nobody's window limits them, tables have the width that they need.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


def main() -> None:
    """Run the command line; an error that a user can meet is one message, and exit status 1."""
    try:
        app()
    except TTLError as error:
        Console(stderr=True).print(f"[red bold]error:[/] {_escaped(error)}", highlight=False, soft_wrap=True)
        sys.exit(1)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the datasets of params.yaml, and what is packed of them."""
    from ttl import tables
    from ttl.data.dataset import INFO, PackedDataset
    from ttl.layout import Layout
    from ttl.params import load_params

    layout, rows = Layout(root=Path.cwd()), []
    for name, spec in load_params().prepare.items():
        row: dict[str, Any] = {"dataset": name, "source": spec.source, "packed": False}
        if (layout.datasets / name / INFO).is_file():
            packed = PackedDataset.open(layout.datasets / name)
            row = {**packed.info.to_dict(), **row, "packed": True, "revision": packed.revision}
        rows.append(row)
    _print(rows, tables.datasets(rows), as_json)


@data_app.command("prepare")
def data_prepare(
    datasets: Annotated[list[str] | None, typer.Argument(help="Names in params.yaml; all if none.")] = None,
) -> None:
    """Pack datasets: read their source, split, and write data/packed/<dataset>."""
    from ttl.data.prepare import prepare
    from ttl.layout import Layout
    from ttl.params import load_params

    params, layout = load_params(), Layout(root=Path.cwd())
    for name in datasets or list(params.prepare):
        packed = prepare(name, params.spec(name), layout.datasets / name)
        info = packed.info
        sizes = ", ".join(f"{split} {sum(counts.values())}" for split, counts in info.counts.items())
        mark = " (SYNTHETIC)" if info.synthetic else ""
        console.print(f"{name}{mark}: {sizes}; classes {', '.join(info.classes)}", highlight=False)
        for note in info.notes:
            console.print(f"  note: {_escaped(note)}", highlight=False, soft_wrap=True)


@data_app.command("check")
def data_check(
    datasets: Annotated[list[str] | None, typer.Argument(help="Names in params.yaml; all if none.")] = None,
) -> None:
    """Read every packed image and compare its checksum."""
    from ttl.data.dataset import PackedDataset
    from ttl.layout import Layout
    from ttl.params import load_params

    params, layout = load_params(), Layout(root=Path.cwd())
    for name in datasets or list(params.prepare):
        packed = PackedDataset.open(layout.datasets / name)
        packed.check()
        console.print(f"{name}: {packed.samples.height} images are as they were packed", highlight=False)


@app.command()
def cuts(
    backbone: Annotated[str, typer.Argument(help="A timm model, such as resnet50.")],
    granularity: Annotated[str | None, typer.Option(help="stage or block; both if not given.")] = None,
    as_json: Json = False,
) -> None:
    """List where a backbone can be cut, from the bottom to the top."""
    from dataclasses import asdict

    from ttl import tables
    from ttl.models.cuts import GRANULARITIES, list_cuts

    wanted = [one for one in GRANULARITIES if granularity in (None, one)]
    if not wanted:
        raise ParamsError(f"granularity is {granularity!r}; it must be one of: {', '.join(GRANULARITIES)}")
    rows = [asdict(cut) for one in wanted for cut in list_cuts(backbone, one)]
    _print(rows, tables.cuts(backbone, rows), as_json)


@app.command()
def cost(  # noqa: PLR0917 - typer calls it by keyword
    backbone: Annotated[str, typer.Argument(help="A timm model, such as resnet50.")],
    strategy: Annotated[list[str] | None, typer.Option(help="Repeatable; all if not given.")] = None,
    cut: Annotated[list[str] | None, typer.Option(help="Repeatable; all stage cuts if not given.")] = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    classes: Annotated[int, typer.Option(help="Number of outputs.")] = 2,
    as_json: Json = False,
) -> None:
    """Print parameters, multiply-accumulates, bytes and latency (batch 1, median, this machine)."""
    from dataclasses import asdict

    from ttl import tables
    from ttl.models.cost import cost as measure
    from ttl.models.cuts import list_cuts
    from ttl.models.names import FULL
    from ttl.models.network import STRATEGIES, NetworkSpec, build_network

    rows = []
    for name in strategy or list(STRATEGIES):
        known = STRATEGIES.get(name)
        if known is None:
            raise ParamsError(f"no strategy is called {name!r}; there are: {', '.join(STRATEGIES)}")
        stages = [one.name for one in list_cuts(backbone, "stage") if not one.whole or known.differs_at_top]
        for place in (cut or stages) if known.cuts else [FULL]:
            spec = NetworkSpec(
                backbone=backbone, strategy=name, cut=place, num_classes=classes, image_size=image_size
            )
            network = build_network(spec, pretrained=False)
            rows.append({"strategy": name, "cut": place, **asdict(measure(network, image_size))})
    _print(rows, tables.cost(backbone, image_size, rows), as_json)


@app.command()
def sweep(  # noqa: PLR0917 - typer calls it by keyword
    dataset: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="A timm model; repeatable.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="imagenet, random or a weights file; repeatable.")
    ] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="ftl, ttl, lwft or tf; repeatable.")] = None,
    granularity: Annotated[str | None, typer.Option(help="stage or block.")] = None,
    planner: Annotated[str | None, typer.Option(help="exhaustive, two-stage or race.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="fast, paper, or YAML such as '{base: fast, epochs: 12}'.")
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
    if outcome is None:
        from ttl.sweep import Sweep

        planned = Sweep(params, layout, merge=merge)
        outcome = _run_flow(overrides, layout) if planned.pending() else planned.finish()
    tables.print_outcome(console, outcome, layout)
    if outcome.lost_strategies or outcome.unselected:
        raise typer.Exit(1)


@app.command()
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
    board = results.leaderboard(results.read_trials(folder))
    if dataset:
        board = board.filter(pl.col("dataset").is_in(dataset))
    if as_json:
        known = results.read_entries(folder)
        rows = [{**row, "synthetic": known[row["dataset"]]["data"]["synthetic"]} for row in board.to_dicts()]
        _print(rows, None, as_json)
    else:
        tables.print_leaderboard(console, board, results.read_entries(folder))


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="The folder to write index.html in.")] = Path("reports"),
) -> None:
    """Write the report: one HTML page that needs no network."""
    from ttl.layout import Layout
    from ttl.release.report import write_report

    page = write_report(Layout(root=Path.cwd()).results, out)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A folder, or a release: NAME, NAME@v1.0.0, NAME#champion.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    engine: Annotated[str, typer.Option(help="auto, onnx, int8 or torch.")] = "auto",
    as_json: Json = False,
) -> None:
    """Print the probability of each class for each image."""
    from ttl import tables
    from ttl.release.predict import load_model, resolve_model
    from ttl.release.predict import predict as run

    if engine not in ("auto", "onnx", "int8", "torch"):
        raise ParamsError(f"engine is {engine!r}; it must be auto, onnx, int8 or torch")
    loaded = load_model(resolve_model(model, Path.cwd()), engine=engine)  # type: ignore[arg-type]
    found = run(loaded, images)
    rows = [
        {
            "image": str(one.image),
            "predicted": one.predicted,
            "probabilities": dict(one.probabilities),
            "synthetic": loaded.description.synthetic,
        }
        for one in found
    ]
    _print(rows, tables.predictions(rows), as_json)
    if loaded.description.synthetic and not as_json:
        console.print("[yellow]This model was trained on synthetic images: it says nothing of patients.[/]")


@app.command()
def release(
    dataset: Annotated[str, typer.Argument(help="The dataset whose model is released.")],
    version: Annotated[str | None, typer.Option(help="Such as v1.2.0; the next if not given.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push files and tags to the remotes.")] = False,
    message: Annotated[str, typer.Option(help="Why, for the tag.")] = "",
) -> None:
    """Register models/<dataset> as a version; it becomes the challenger."""
    from ttl.release import registry

    made = registry.release(dataset, repo=Path.cwd(), version=version, push=push, message=message)
    console.print(f"released {made.tag}: {made.network}, {made.params:,} parameters", highlight=False)
    for note in made.notes:
        console.print(f"note: {_escaped(note)}", highlight=False, soft_wrap=True)


@models_app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List releases, the newest first."""
    if context.invoked_subcommand:
        return
    from dataclasses import asdict

    from ttl import tables
    from ttl.release import registry

    rows = [asdict(one) for one in registry.models(repo=Path.cwd())]
    _print(rows, tables.releases(rows), as_json)


@models_app.command("assign")
def models_assign(
    model: Annotated[str, typer.Argument(help="NAME (its newest version), NAME@v1.0.0 or NAME#challenger.")],
    stage: Annotated[str, typer.Argument(help="challenger or champion.")],
    push: Annotated[bool, typer.Option("--push", help="Push the tag to the git remote.")] = False,
    message: Annotated[str, typer.Option(help="Why, for the tag.")] = "",
) -> None:
    """Assign a stage to a release."""
    from ttl.release import registry

    made = registry.assign(model, stage, repo=Path.cwd(), push=push, message=message)
    console.print(f"{made.tag} is now {stage}", highlight=False)


def _run_flow(overrides: dict[str, Any], layout: Any) -> Any:
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
    try:
        return None if text is None else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"--recipe {text!r} is not valid YAML: {error}") from error


def _print(values: Any, table: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
    else:
        console.print(table)


def _escaped(text: object) -> str:
    return str(text).replace("[", "\\[")


if __name__ == "__main__":
    main()

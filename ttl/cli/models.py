"""`ttl predict`, `ttl release` and `ttl models …`: a model in use, and the registry."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from ttl.cli.shared import Json, console, escaped, show
from ttl.errors import ParamsError

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415

models_app = typer.Typer(invoke_without_command=True, help="The registry: releases and their stages.")


def predict(
    model: Annotated[str, typer.Argument(help="A folder, or a release: NAME, NAME@v1.0.0, NAME#champion.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or volumes; DICOM for a model of drops.")],
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
    show(rows, tables.predictions(rows), as_json)
    if loaded.description.synthetic and not as_json:
        console.print("[yellow]This model was trained on synthetic images: it says nothing of patients.[/]")


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
        console.print(f"note: {escaped(note)}", highlight=False, soft_wrap=True)


@models_app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List releases, the newest first."""
    if context.invoked_subcommand:
        return
    from dataclasses import asdict

    from ttl import tables
    from ttl.release import registry

    rows = [asdict(one) for one in registry.models(repo=Path.cwd())]
    show(rows, tables.releases(rows), as_json)


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


@models_app.command("decide")
def models_decide(
    model: Annotated[str, typer.Argument(help="NAME@v1.0.0, as the gate has proposed it.")],
    decision: Annotated[str, typer.Option(help="approve or reject.")],
    name: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why: it stands in the registry for good.")],
    push: Annotated[bool, typer.Option("--push", help="Push the tag to the git remote.")] = False,
) -> None:
    """Decide on a proposal: approved, it is the champion."""
    from ttl.release.decisions import decide

    dataset, _, version = model.partition("@")
    told = decide(dataset, version, repo=Path.cwd(), decision=decision, who=name, reason=reason, push=push)
    console.print(escaped(told), highlight=False, soft_wrap=True)


@models_app.command("history")
def models_history(
    dataset: Annotated[str, typer.Argument(help="The dataset whose champions are listed.")],
    day: Annotated[
        datetime.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="What was live on this day (UTC).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which model was live when, who approved it and why, and on which data it was trained."""
    from dataclasses import asdict

    from ttl import tables
    from ttl.release.history import history

    found = history(dataset, repo=Path.cwd(), day=day.date() if day else None)
    rows = [asdict(one) for one in found]
    show(rows, tables.lives(rows), as_json)


@models_app.command("rollback")
def models_rollback(
    dataset: Annotated[str, typer.Argument(help="The dataset whose champion is taken back.")],
    name: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why: it stands in the registry for good.")],
    push: Annotated[bool, typer.Option("--push", help="Push the tag to the git remote.")] = False,
) -> None:
    """Make the champion before the present one champion again."""
    from ttl.release.history import rollback

    made = rollback(dataset, repo=Path.cwd(), who=name, reason=reason, push=push)
    console.print(f"{made.tag} is the champion again", highlight=False)

"""`ttl intake`, `ttl retrain` and `ttl phantom drop`: the loop of a hospital, by hand."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from ttl.cli.shared import Json, console, escaped, show

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415

phantom_app = typer.Typer(no_args_is_help=True, help="A simulated hospital: synthetic drops of real DICOM.")


def intake(
    datasets: Annotated[list[str] | None, typer.Argument(help="Names under `intake`; all if none.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push files and the commit to the remotes.")] = False,
    as_json: Json = False,
) -> None:
    """Take the drops that have arrived: check each file, append what is accepted, commit the revision."""
    from flows.drift import drift_rows
    from flows.taking import one_error, summary, take_drops
    from ttl import tables
    from ttl.errors import TTLError
    from ttl.layout import Layout
    from ttl.params import load_params

    layout = Layout(root=Path.cwd())
    found, drift = {}, []
    failed: dict[str, TTLError] = {}
    for name in datasets or list(load_params().intake):
        try:
            intake = take_drops(name, layout, own=False, push=push)
        except TTLError as error:
            failed[name] = error
            continue
        rows = drift_rows(name, layout, intake.taken, own=False)
        found[name] = {**summary(intake), "drift": rows}
        drift += rows
    if found or not failed:
        show(found, tables.intakes(found), as_json)
    if drift and not as_json:
        console.print(tables.drift(drift))
    if failed:
        raise one_error(failed)


def retrain(
    dataset: Annotated[
        str | None, typer.Argument(help="A name under `intake`, if there are several.")
    ] = None,
    full: Annotated[
        bool | None, typer.Option("--full/--near", help="All cuts, or those near the champion's.")
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Push files and tags to the remotes.")] = False,
) -> None:
    """Train a challenger on the newest data and judge it against the champion, as gate.yaml says.

    What is proposed becomes a version and the challenger; `ttl models decide` is a person's decision on it.
    """
    from flows.proposals import propose
    from ttl.cli.sweeps import run_sweep
    from ttl.layout import Layout
    from ttl.params import load_params
    from ttl.release.evidence_files import FOLDER

    params, layout = load_params(), Layout(root=Path.cwd())
    name = params.intake_name(dataset)

    def sweep() -> None:
        run_sweep({}, Layout(root=Path.cwd()))
        console.print("judging what was selected, as gate.yaml says")

    console.print(f"{name}: a copy of the project is prepared to train in", highlight=False)
    made = propose(
        layout,
        name,
        full=full,
        own=False,
        push=push,
        run_id="by hand",
        sweep=sweep,
    )
    colour = {"propose": "green", "reject": "red"}.get(made.outcome, "yellow")
    console.print(f"{name}, revision {made.revision}: [{colour}]{made.outcome}[/]", highlight=False)
    for reason in made.reasons:
        console.print(f"  {escaped(reason)}", highlight=False, soft_wrap=True)
    if made.evidence:
        console.print(f"evidence: {FOLDER}/{name}/evidence.html", highlight=False)
    if made.version:
        console.print(
            f"next: ttl models decide {name}@{made.version} --decision approve --name … --reason …",
            highlight=False,
            soft_wrap=True,
        )


@phantom_app.command("drop")
def phantom_drop(  # noqa: PLR0917 - typer calls it by keyword
    site: Annotated[str, typer.Option(help="The site that delivers.")],
    patients: Annotated[int, typer.Option(help="New patients, of one to three films each.")],
    date: Annotated[datetime.datetime, typer.Option(formats=["%Y-%m-%d"], help="The day of delivery.")],
    out: Annotated[Path, typer.Option(help="The folder of incoming drops.")] = Path("incoming"),
    drop: Annotated[str | None, typer.Option(help="Its name; the day if not given.")] = None,
    size: Annotated[int, typer.Option(help="Side of the films in pixels.")] = 64,
    shift: Annotated[str | None, typer.Option(help="scanner: another one than the site's own.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="Something planted in it; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Other films, of other patients.")] = 0,
) -> None:
    """Write a drop of synthetic films as DICOM, as a site would deliver it."""
    from ttl.intake.phantom import write_drop

    made = write_drop(
        out,
        site=site,
        drop=drop or f"{date:%Y-%m-%d}",
        patients=patients,
        date=date.date(),
        seed=seed,
        size=size,
        shift=shift,
        faults=tuple(fault or ()),
    )
    console.print(f"wrote {escaped(made)} (SYNTHETIC)", highlight=False, soft_wrap=True)

"""The command line, `ttl …`: it reads what was typed, calls the library, and prints."""

import sys

import typer
from rich.console import Console

from ttl.cli import attention, hospital, models, networks, papers, similarity, sweeps
from ttl.cli.data import data_app
from ttl.cli.models import models_app
from ttl.cli.shared import escaped
from ttl.errors import TTLError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
app.add_typer(data_app, name="data")
for command in (
    networks.cuts,
    networks.cost,
    sweeps.sweep,
    sweeps.leaderboard,
    sweeps.report,
    similarity.similarity,
    attention.attention,
    papers.paper,
    hospital.intake,
    hospital.retrain,
    models.predict,
    models.release,
):
    app.command()(command)
app.add_typer(models_app, name="models")
app.add_typer(hospital.phantom_app, name="phantom")


def main() -> None:
    """Run the command line; an error that a user can meet is one message, and exit status 1."""
    try:
        app()
    except TTLError as error:
        Console(stderr=True).print(f"[red bold]error:[/] {escaped(error)}", highlight=False, soft_wrap=True)
        sys.exit(1)

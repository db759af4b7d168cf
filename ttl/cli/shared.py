"""What the commands share: the console, and how values are printed."""

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

# Where nobody's window limits them, tables have the width that they need.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


def show(values: Any, table: Any, as_json: bool) -> None:
    """Print values as JSON, or as a table."""
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
    else:
        console.print(table)


def escaped(text: object) -> str:
    """Return a text that rich prints as it is."""
    return str(text).replace("[", "\\[")

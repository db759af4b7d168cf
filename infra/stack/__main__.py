"""The command line of the stack."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from infra.stack.settings import PROJECT
from infra.stack.stack import Stack
from ttl.errors import TTLError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()


def stack() -> Stack:
    """Return the stack in the folder that TTL_STACK names, or in `.stack`."""
    folder = Path(os.environ.get("TTL_STACK") or PROJECT / ".stack")
    return Stack(folder, free_ports=os.environ.get("TTL_STACK_PORTS") == "free")


@app.command()
def up() -> None:
    """Start whatever of the stack does not run."""
    started = time.monotonic()
    one = stack()
    with console.status("starting PostgreSQL, Prefect, S3, Ray and a worker"):
        one.up()
    status()
    folder = os.path.relpath(one.settings.folder)
    console.print(
        f"up after {time.monotonic() - started:.0f} s; objects on S3 are in memory, and go with `down`"
    )
    console.print(f"next: [bold]source {folder}/env && prefect deployment run ttl-sweep/default --watch[/]")


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove its database and secrets too.")] = False,
) -> None:
    """End all of the stack."""
    stack().down(purge=purge)
    console.print("the stack is down")


@app.command()
def status() -> None:
    """Say what runs, and where."""
    one = stack()
    table = Table(box=None)
    for column in ("service", "process", "memory", "address"):
        table.add_column(column)
    ports = one.settings.ports
    addresses = {
        "postgres": f"127.0.0.1:{ports['postgres']}",
        "prefect": f"http://127.0.0.1:{ports['prefect']}",
        "s3": f"http://127.0.0.1:{ports['s3']}",
        "ray-head": f"127.0.0.1:{ports['ray']}",
    }
    for name in one.processes.names():
        process = one.processes.alive(name)
        if process is None:
            table.add_row(name, "[red]has ended[/]", "", "")
            continue
        family = [process, *process.children(recursive=True)]
        memory = sum(each.memory_info().rss for each in family) / 1e6
        table.add_row(name, str(process.pid), f"{memory:.0f} MB", addresses.get(name, ""))
    console.print(table)


@app.command()
def restart(name: str) -> None:
    """End one service, and start it again."""
    stack().restart(name)


@app.command()
def kill(name: str) -> None:
    """Kill one service with SIGKILL, to see what happens."""
    stack().kill(name)


if __name__ == "__main__":
    try:
        app()
    except TTLError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(1) from error

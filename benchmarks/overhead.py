"""What a sweep costs beside training: small trials, a finished sweep asked for again, a large table.

`python -m benchmarks.overhead`. A hundred trials of a second or two are run as a user would, by `ttl sweep`
in a folder of its own. Outside training and evaluation is what remains of each slot's time when the trials'
own epochs are taken away: starting Prefect and the trainers, building networks, scoring, writing, selecting.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
import yaml

from benchmarks.data import make_dataset
from ttl.search.results import TRIALS_SCHEMA, leaderboard, read_trials
from ttl.training.devices import MOST_CPU_SLOTS, find_slots

ROOT = Path(__file__).parents[1]


def main(
    trials: Annotated[int, typer.Option(help="One of ftl for three of ttl.")] = 100,
    images: Annotated[int, typer.Option(help="Of the dataset; 80 % are for training.")] = 400,
    rows: Annotated[int, typer.Option(help="Of the large table.")] = 1_000_000,
) -> None:
    """Print the figures."""
    slots = min(len(find_slots(1)), MOST_CPU_SLOTS)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        make_dataset(project / "data" / "packed" / "noise", images=images, size=32)
        (project / "params.yaml").write_text(yaml.safe_dump(_params(trials)))
        first = run(project, "sweep")
        table = read_trials(project / "results")
        inside = float(table["train_seconds"].sum())
        print(
            f"{table.height} trials on {slots} slots: {first:.1f} s, of which training and validation "
            f"{inside / slots:.1f} s; outside {(slots * first - inside) / table.height:.2f} s a trial of "
            f"slot time, {(first - inside / slots) / table.height:.2f} s of wall time"
        )
        print(f"the finished sweep asked for again: {run(project, 'sweep'):.2f} s")
        print(f"ttl leaderboard: {run(project, 'leaderboard'):.2f} s")
    many = large(rows)
    start = time.perf_counter()
    board = leaderboard(many)
    print(f"{rows:,} rows into a leaderboard of {board.height:,}: {time.perf_counter() - start:.2f} s")


def run(project: Path, command: str) -> float:
    """Run `ttl COMMAND` in a project's folder; return the seconds it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ttl.cli", command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"ttl {command} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start


def large(rows: int) -> pl.DataFrame:
    """Return a table of completed trials, three seeds a model."""
    numbers = pl.int_range(rows, eager=True)
    columns = {}
    for name, kind in TRIALS_SCHEMA.items():
        if kind == pl.String:
            columns[name] = pl.Series([name] * rows)
        elif kind == pl.Float64:
            columns[name] = (numbers % 997) / 997
        else:
            columns[name] = numbers.cast(kind)
    table = pl.DataFrame(columns)
    model = numbers // 3
    return table.with_columns(
        cut=pl.format("blocks.{}", model % 16),
        dataset=pl.format("d{}", model // 16),
        seed=numbers % 3,
        cut_index=model % 16,
        image_size=pl.lit(64, pl.Int64),
        processes=pl.lit(1, pl.Int64),
        status=pl.lit("completed"),
    )


def _params(trials: int) -> dict[str, object]:
    return {
        "prepare": {"noise": {"source": "phantom", "input": "x"}},
        "sweep": {
            "strategies": ["ftl", "ttl"],
            "granularity": "stage",
            "backbones": ["resnet18"],
            "sources": ["random"],
            "seeds": list(range(trials // 4)),
            "recipe": {"base": "fast", "epochs": 1},
            "image_size": 32,
            "planner": "exhaustive",
        },
        "selection": {"margin": 0.4, "resamples": 200},
    }


if __name__ == "__main__":
    typer.run(main)

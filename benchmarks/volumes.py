"""AdrenalMNIST3D's official split by slices: cut early, and whole, three seeds, on two slots.

`TTL_DATA_MIRROR=… python -m benchmarks.volumes FOLDER` makes a project in the folder, or goes on with what is
there, and runs `ttl sweep` in it. The row marked is the truncated model of the best mean validation AUROC
over seeds: test figures choose nothing. The best published baseline has a test AUROC of .839 (Yang et al.,
Scientific Data 2023).
"""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import typer
import yaml
from rich.console import Console
from rich.table import Table

from ttl.search.results import read_trials

PARAMS = {
    "prepare": {
        "adrenal": {
            "source": "medmnist",
            "input": "params.yaml",
            "size": 64,
            "options": {"flag": "adrenalmnist3d"},
        }
    },
    "sweep": {
        "strategies": ["ftl", "ttl"],
        "cuts": ["blocks.1", "blocks.2", "blocks.3"],
        "planner": "exhaustive",
        "seeds": [0, 1, 2],
        # A crop that is resized would change the thickness of a gland, which is the finding.
        "recipe": {"base": "fast", "epochs": 6, "batch_size": 32, "crop_scale": 1.0},
        "image_size": 32,
    },
}


def main(folder: Path) -> None:
    """Run the sweep; print each model's figures by seed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    commands = [["sweep"]]
    if not (folder / "data" / "packed" / "adrenal").is_dir():
        commands.insert(0, ["data", "prepare", "adrenal"])
    for command in commands:
        subprocess.run([sys.executable, "-m", "ttl.cli", *command], cwd=folder, env=environment, check=True)
    show(read_trials(folder / "results"))


def show(trials: pl.DataFrame) -> None:
    """Print the mean of each model over its seeds, and each seed's test figure."""
    models = (
        trials.sort("seed")
        .group_by("strategy", "cut", maintain_order=True)
        .agg(
            pl.col("params").first(),
            pl.col("macs").first(),
            pl.col("train_seconds").sum(),
            pl.col("val_auroc", "test_auroc").mean(),
            pl.col("test_auroc").alias("seeds"),
        )
        .sort("params")
    )
    best = models.filter(strategy="ttl")["val_auroc"].max()
    table = Table(
        "", "network", "parameters", "MACs", "validation", "test", "by seed", "trained, s", box=None
    )
    for row in models.iter_rows(named=True):
        chosen = row["strategy"] == "ttl" and row["val_auroc"] == best
        table.add_row(
            "→" if chosen else "",
            f"{row['strategy']} {row['cut']}",
            f"{row['params']:,}",
            f"{row['macs'] / 1e6:.0f} M",
            f"{row['val_auroc']:.4f}",
            f"{row['test_auroc']:.4f}",
            " ".join(f"{value:.4f}" for value in row["seeds"]),
            f"{row['train_seconds']:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)

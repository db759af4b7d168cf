"""One process against two: the same samples, each scored once, and nearly the same validation AUROC.

`python -m benchmarks.processes pneumoniamnist` in a project's folder with that dataset packed.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from ttl.data.dataset import PackedDataset
from ttl.layout import Layout
from ttl.models.backbones import weights_sha256
from ttl.models.names import FULL
from ttl.models.weights import IMAGENET
from ttl.training.devices import find_slots
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import Step, Trial
from ttl.training.worker import Worker


def main(
    dataset: str,
    backbone: Annotated[str, typer.Option(help="A timm model.")] = "efficientnet_lite0",
    cut: Annotated[str, typer.Option(help="A cut, or `full` for the whole network.")] = "blocks.2",
    epochs: Annotated[int, typer.Option(help="Of the recipe `fast`.")] = 6,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
) -> None:
    """Train one trial with one process and with two, and compare what they leave."""
    datasets = Layout(root=Path.cwd()).datasets
    packed = PackedDataset.open(datasets / dataset)
    table = Table("processes", "scored", "distinct", "of split val", "val AUROC", "test AUROC", box=None)
    scored, aurocs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            trial = Trial(
                dataset=dataset,
                revision=packed.revision,
                backbone=backbone,
                source_sha256=weights_sha256(backbone, IMAGENET),
                strategy="ftl" if cut == FULL else "ttl",
                cut=cut,
                recipe=make_recipe({"base": "fast", "epochs": epochs}),
                image_size=image_size,
                seed=0,
                processes=processes,
            )
            runs, slot = Runs(Path(folder)), find_slots(processes)[0]
            with Worker(slot, runs, datasets) as worker:
                worker.run([Step(trial=trial)], lambda _: None)
            result = runs.result(trial.trial_id)
            assert result is not None
            if result["error"]:
                raise SystemExit(f"{trial.label}, {processes} processes: {result['error']}")
            samples = runs.predictions(trial.trial_id).filter(pl.col("split") == "val")["sample_id"]
            scored.append(set(samples))
            aurocs.append(result["val_auroc"])
            figures = (processes, len(samples), samples.n_unique(), len(packed.indices("val")))
            table.add_row(*map(str, figures), f"{result['val_auroc']:.4f}", f"{result['test_auroc']:.4f}")
    console = Console()
    console.print(table)
    same = "the same" if scored[0] == scored[1] else "DIFFERENT"
    console.print(f"{same} samples; validation AUROC differs by {abs(aurocs[0] - aurocs[1]):.4f}")


if __name__ == "__main__":
    typer.run(main)

"""Several trainings at once on one device: what each gets, and what they do together.

`python -m benchmarks.sharing --processes 1 --processes 2 --processes 4`. Each process trains the same trial
on the same dataset; all begin their measured epochs together.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.data import make_dataset
from ttl.data.dataset import PackedDataset
from ttl.models.names import FULL
from ttl.training.accelerator import make_accelerator
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.recipe import make_recipe
from ttl.training.trial import Trial

EPOCHS = 2
"""Measured ones; one before them warms up."""


def main(
    processes: Annotated[list[int] | None, typer.Option(help="Repeatable.")] = None,
    cut: Annotated[list[str] | None, typer.Option(help="Repeatable; `full` is the whole network.")] = None,
    images: Annotated[int, typer.Option(help="Of the dataset; 80 % are for training.")] = 800,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    role: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print a row for each cut and number of processes."""
    cuts = cut or [FULL, "blocks.2"]
    if role:
        _train(Path(role), cuts[0], image_size, precision)
        return
    table = Table("cut", "processes", "images a second", "each", "together, times one", box=None)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "noise", images=images, size=image_size)
        count = EPOCHS * len(dataset.indices("train"))
        for one in cuts:
            alone = 0.0
            for number in processes or [1, 2]:
                options = ["--cut", one, "--image-size", str(image_size), "--precision", precision]
                command = [sys.executable, "-m", "benchmarks.sharing", "--role", str(dataset.root), *options]
                running = [
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                    for _ in range(number)
                ]
                for process in running:
                    assert process.stdout is not None
                    process.stdout.readline()
                start = time.perf_counter()
                for process in running:
                    assert process.stdin is not None
                    process.stdin.write("go\n")
                    process.stdin.flush()
                if any(process.wait() for process in running):
                    raise SystemExit("a training failed; its message is above")
                rate = number * count / (time.perf_counter() - start)
                alone = alone or rate
                table.add_row(one, str(number), f"{rate:.0f}", f"{rate / number:.0f}", f"{rate / alone:.2f}")
    Console(width=100).print(table)


def _train(root: Path, cut: str, image_size: int, precision: str) -> None:
    """Train in a process of its own: one epoch, a line, and the measured ones when a line comes back."""
    torch.set_num_threads(1)
    accelerator = make_accelerator(precision, cpu=not torch.cuda.is_available())
    dataset = PackedDataset.open(root)
    trial = Trial(
        dataset=root.name,
        revision=dataset.revision,
        backbone="efficientnet_lite0",
        source="random",
        strategy="ftl" if cut == FULL else "ttl",
        cut=cut,
        recipe=make_recipe({"base": "fast", "epochs": 9, "precision": precision}),
        image_size=image_size,
        seed=0,
    )
    trainer = Trainer(trial, Pixels(dataset, accelerator.device), accelerator, root / "unused")
    trainer._train_epoch(1)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(EPOCHS):
        trainer._train_epoch(2 + number)
    # Their time ends with the process: what it takes to end is small beside the epochs.
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    typer.run(main)

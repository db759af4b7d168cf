"""What it takes in memory to go once through a large dataset, in the order of training.

`python -m benchmarks.memory`. The pixels are mapped: pages of them that lie in memory are the system's, which
takes them back when anything else needs room, so what counts is the process's own memory. The files are
sparse: reading them is as fast as memory, and takes no disk.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.data import make_dataset
from ttl.training.batches import training_batches
from ttl.training.pixels import Pixels


def main(
    images: Annotated[int, typer.Option(help="80 % are for training.")] = 1_250_000,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
) -> None:
    """Print the peak of the process's own memory over an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "large", images=images, size=size, empty=True)
        before = memory("RssAnon")
        pixels = Pixels(dataset, torch.device("cpu"))
        start, peak, seen = time.perf_counter(), 0.0, 0
        for number, rows in enumerate(
            training_batches(dataset.indices("train"), batch_size=batch, seed=0, epoch=1)
        ):
            seen += len(pixels(rows))
            if number % 100 == 0:
                peak = max(peak, memory("RssAnon"))
        taken = time.perf_counter() - start
        print(
            f"{seen:,} images of {size} px, {seen * size * size / 1e9:.1f} GB: own memory at most "
            f"{peak:.2f} GB ({before:.2f} GB before), {memory('RssFile'):.2f} GB of mapped pages, "
            f"{seen / taken:,.0f} images a second"
        )


def memory(field: str) -> float:
    """Return a field of this process's status in gigabytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    typer.run(main)

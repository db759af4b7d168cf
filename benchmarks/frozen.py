"""Layer-wise finetuning with and without the kept features of its frozen part: what they save, and from when.

`python -m benchmarks.frozen`. `compute` and `read` are the time of an image's features in a batch, by the
frozen part and from the table; `write` is what the first pass adds. Keeping pays from the `break-even`-th
time on that an image is seen; `epoch` compares whole epochs without random crops, the second to the fourth.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.data import make_dataset
from ttl.models.network import NetworkSpec, build_network
from ttl.training.accelerator import make_accelerator
from ttl.training.frozen import FrozenFeatures
from ttl.training.frozen import Table as Kept
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.recipe import make_recipe
from ttl.training.trial import Trial


def main(
    backbone: Annotated[str, typer.Option(help="A timm model.")] = "efficientnet_lite0",
    cut: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    images: Annotated[int, typer.Option(help="Of the dataset; 80 % are for training.")] = 800,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
) -> None:
    """Print a row for each cut."""
    torch.set_num_threads(1)
    accelerator = make_accelerator("no", cpu=not torch.cuda.is_available())
    table = Table(
        "cut",
        "kB an image",
        "compute ms",
        "write ms",
        "read ms",
        "break-even",
        "epoch s",
        "kept s",
        "times",
        box=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "noise", images=images, size=image_size)
        pixels = Pixels(dataset, accelerator.device)
        for one in cut or [f"blocks.{i}" for i in range(7)]:
            spec = NetworkSpec(
                backbone=backbone,
                strategy="lwft",
                cut=one,
                source="random",
                num_classes=2,
                image_size=image_size,
            )
            size, compute, write, read = parts(spec, batch, accelerator.device)
            trial = Trial(
                dataset="noise",
                revision=dataset.revision,
                backbone=backbone,
                source="random",
                strategy="lwft",
                cut=one,
                recipe=make_recipe({"base": "fast", "epochs": 9, "batch_size": batch, "crop_scale": 1.0}),
                image_size=image_size,
                seed=0,
            )
            epochs = []
            for keep in (False, True):
                trainer = Trainer(trial, pixels, accelerator, Path(folder))
                if not keep:
                    trainer.frozen = None
                taken = [trainer._train_epoch(number).seconds for number in range(1, 5)]
                epochs.append(statistics.median(taken[1:]))
                trainer.close()
            pays = 1 + write / (compute - read) if compute > read else float("inf")
            table.add_row(
                one, f"{size / 1000:.0f}", f"{compute:.3f}", f"{write:.3f}", f"{read:.3f}", f"{pays:.2f}",
                f"{epochs[0]:.2f}", f"{epochs[1]:.2f}", f"{epochs[0] / epochs[1]:.2f}",
            )  # fmt: skip
    Console(width=120).print(table)


def parts(spec: NetworkSpec, batch: int, device: torch.device) -> tuple[float, float, float, float]:
    """Return an image's bytes, and milliseconds to compute, write and read its features."""
    network = build_network(spec).to(device).to(memory_format=torch.channels_last)
    frozen = FrozenFeatures(network, spec.cut, spec.image_size)
    below = build_network(
        NetworkSpec(
            backbone=spec.backbone, strategy="ttl", cut=spec.cut, source=spec.source,
            num_classes=spec.num_classes, image_size=spec.image_size,
        )
    ).to(device).to(memory_format=torch.channels_last).eval()  # fmt: skip
    images = torch.randn(batch, 3, spec.image_size, spec.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    features = torch.randn(batch, *frozen.shapes[frozen.top], device=device)
    if features.ndim == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    rows = 16 * batch
    kept = Kept(rows)
    # Rows that were never written, each time: the first writing is what it costs.
    fresh = iter(torch.randperm(rows).split(batch))

    def take(work: object) -> float:
        taken = []
        for _ in range(12):
            start = time.perf_counter()
            work()  # type: ignore[operator]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(1000 * (time.perf_counter() - start) / batch)
        return statistics.median(taken[2:])

    with torch.no_grad():
        compute = take(lambda: below(images))
        write = take(lambda: kept.put(next(fresh), features))
        read = take(lambda: kept.get(torch.randperm(12 * batch)[:batch]))
    return features[0].numel() * features.element_size(), compute, write, read


if __name__ == "__main__":
    typer.run(main)

"""The training loop against its ceiling, and against a plain loop: images a second, measured in turns.

`python -m benchmarks.loop`. `bare` is forward, backward and step on one batch that lies on the device, with
the same network, layout, precision and optimiser. `epoch` is a trial's own epoch without its validation;
`with validation` is all of it; `plain` is an epoch of `benchmarks/plain.py`, with its evaluations. The
medians of the rounds are shown. `--layouts` measures the bare loop in other layouts and precisions. `GB` is
the most that the trial takes of a GPU's memory, its pixels included, as PyTorch's allocator counts it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.data import make_dataset
from benchmarks.plain import PlainLoop, write_images
from ttl.models.names import FULL
from ttl.models.network import NetworkSpec, build_network
from ttl.training.accelerator import make_accelerator
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.recipe import make_recipe
from ttl.training.trial import Trial

BARE_STEPS = 10
CLASSES = 2


class Timed(Trainer):
    """A trainer that takes the time of its validations."""

    validation = 0.0

    def _validate(self, number: int) -> tuple[float, float]:
        start = now(self.accelerator.device)
        found = super()._validate(number)
        self.validation += now(self.accelerator.device) - start
        return found


def main(
    backbone: Annotated[str, typer.Option(help="A timm model.")] = "efficientnet_lite0",
    cut: Annotated[list[str] | None, typer.Option(help="Repeatable; `full` is the whole network.")] = None,
    images: Annotated[int, typer.Option(help="Of the dataset; 80 % are for training.")] = 800,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    rounds: Annotated[int, typer.Option(help="How often each is measured.")] = 3,
    threads: Annotated[int, typer.Option(help="On the CPU.")] = 1,
    layouts: Annotated[bool, typer.Option(help="Measure layouts and precisions instead.")] = False,
) -> None:
    """Print a row for each cut."""
    torch.set_num_threads(threads)
    accelerator = make_accelerator(precision, cpu=not torch.cuda.is_available())
    device = accelerator.device
    cuts = cut or [FULL, "blocks.4", "blocks.2", "blocks.0"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} thread(s)"
    title = f"{backbone}, {image_size} px, batch {batch}, precision {precision}, {name}: images a second"
    if layouts:
        show_layouts(backbone, cuts, image_size, batch, rounds, device, title)
        return
    columns = ["cut", "bare", "epoch", "of bare", "with validation", "plain", "times plain"]
    table = Table(*columns, *(["GB"] if device.type == "cuda" else []), title=title, box=None)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "noise", images=images, size=image_size)
        write_images(dataset, Path(folder) / "files")
        pixels, count = Pixels(dataset, device), len(dataset.indices("train"))
        for one in cuts:
            trial = Trial(
                dataset="noise",
                revision=dataset.revision,
                backbone=backbone,
                source="random",
                strategy="ftl" if one == FULL else "ttl",
                cut=one,
                recipe=make_recipe(
                    {"base": "fast", "epochs": 99, "batch_size": batch, "precision": precision}
                ),
                image_size=image_size,
                seed=0,
            )
            trainer = Timed(trial, pixels, accelerator, Path(folder))
            # Alone on the device. Afterwards the others are there too.
            memory = most_memory(trainer, device)
            net = build_network(_spec(backbone, one, image_size)).net
            plain = PlainLoop(
                net,
                Path(folder) / "files",
                image_size=image_size,
                batch=batch,
                device=device,
                workers=0 if device.type == "cpu" else 4,
            )
            bare = bare_loop(backbone, one, image_size, batch, device, precision=precision)
            rates: list[tuple[float, float, float, float]] = []
            for number in range(rounds + 1):
                bare_rate = BARE_STEPS * batch / seconds(bare, device, times=BARE_STEPS)
                trainer.validation = 0.0
                start = now(device)
                trainer._train_epoch(number + 2)
                taken = now(device) - start
                plain_rate = count / seconds(plain.epoch, device)
                rates.append((bare_rate, count / (taken - trainer.validation), count / taken, plain_rate))
            # The first round warms up.
            bare_rate, epoch, whole, plain_rate = (statistics.median(x) for x in zip(*rates[1:], strict=True))
            table.add_row(
                one, f"{bare_rate:.0f}", f"{epoch:.0f}", f"{epoch / bare_rate:.0%}",
                f"{whole:.0f}", f"{plain_rate:.0f}", f"{whole / plain_rate:.2f}", *memory,
            )  # fmt: skip
            trainer.close()
            del trainer, net, plain, bare
    Console(width=120).print(table)


def most_memory(trainer: Trainer, device: torch.device) -> list[str]:
    """Return the most gigabytes of a GPU that an epoch takes; nothing on a CPU."""
    if device.type == "cpu":
        return []
    torch.cuda.reset_peak_memory_stats(device)
    trainer._train_epoch(1)
    return [f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f}"]


def bare_loop(
    backbone: str,
    cut: str,
    image_size: int,
    batch: int,
    device: torch.device,
    *,
    precision: str = "no",
    channels_last: bool = True,
    fused: bool = True,
    compiled: bool = False,
) -> Callable[[], None]:
    """Return one step of a bare loop."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = build_network(_spec(backbone, cut, image_size)).to(device).to(memory_format=layout)
    network.train()
    model = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-4, fused=fused, foreach=False if not fused else None
    )
    images = torch.randn(batch, 3, image_size, image_size, device=device).contiguous(memory_format=layout)
    labels = torch.arange(batch, device=device) % CLASSES
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}

    def step() -> None:
        with torch.autocast(device.type, kinds.get(precision, torch.bfloat16), enabled=precision in kinds):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def show_layouts(
    backbone: str, cuts: list[str], image_size: int, batch: int, rounds: int, device: torch.device, title: str
) -> None:
    """Print the bare loop's images a second in several layouts and precisions, in turns."""
    variants: dict[str, dict[str, object]] = {
        "ours": {},
        "contiguous": {"channels_last": False},
        "not fused": {"fused": False},
        "bf16": {"precision": "bf16"},
        "compiled": {"compiled": True},
    }
    table = Table("cut", *variants, title=f"bare loop, {title}", box=None)
    for cut in cuts:
        steps = {
            name: bare_loop(backbone, cut, image_size, batch, device, **options)  # type: ignore[arg-type]
            for name, options in variants.items()
        }
        for step in steps.values():
            step()
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, step in steps.items():
                taken[name].append(BARE_STEPS * batch / seconds(step, device, times=BARE_STEPS))
        table.add_row(cut, *(f"{statistics.median(values):.0f}" for values in taken.values()))
    Console(width=120).print(table)


def seconds(work: Callable[[], None], device: torch.device, times: int = 1) -> float:
    """Return the time that so many calls take."""
    start = now(device)
    for _ in range(times):
        work()
    return now(device) - start


def now(device: torch.device) -> float:
    """Return the time when the device is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _spec(backbone: str, cut: str, image_size: int) -> NetworkSpec:
    return NetworkSpec(
        backbone=backbone,
        strategy="ftl" if cut == FULL else "ttl",
        cut=cut,
        source="random",
        num_classes=CLASSES,
        image_size=image_size,
    )


if __name__ == "__main__":
    typer.run(main)

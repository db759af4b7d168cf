"""How fast a selected model is, beside the whole network: one image, the same threads, in turns.

`python -m benchmarks.latency models/pneumoniamnist`. The whole network has random weights: they do not change
its time. The change of validation AUROC is what the export measured.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table

from ttl.models.network import NetworkSpec, build_network
from ttl.release.description import INT8, ONNX, WEIGHTS, Description, read_description
from ttl.release.onnx import INPUT, OUTPUT, write_onnx
from ttl.release.predict import load_network


def main(
    model: Path,
    threads: Annotated[int, typer.Option(help="Of both engines.")] = 2,
    rounds: Annotated[int, typer.Option(help="Images a measurement.")] = 300,
) -> None:
    """Print a row for each network and engine."""
    torch.set_num_threads(threads)
    known = read_description(model)
    network = build_network(_spec(known, "ftl", "full"), pretrained=False)
    image = torch.randn_like(network.blank(known.image_size))
    with tempfile.TemporaryDirectory() as folder:
        whole = network.runnable.eval()
        write_onnx(whole, image, Path(folder) / ONNX)
        selected = load_network(_spec(known, known.strategy, known.cut), model / WEIGHTS)
        runs: dict[str, Callable[[], object]] = {
            "ftl, torch": _eager(whole, image),
            "ftl, ONNX Runtime": _session(Path(folder) / ONNX, image, threads),
            f"{known.strategy} {known.cut}, torch": _eager(selected, image),
            f"{known.strategy} {known.cut}, ONNX Runtime": _session(model / ONNX, image, threads),
        }
        if known.int8 is not None:
            runs[f"{known.strategy} {known.cut}, int8"] = _session(model / INT8, image, threads)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 20):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if number >= 20:
                    taken[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    table = Table(
        "network", "ms", "times ftl, torch", "times ftl, ONNX Runtime", "validation AUROC",
        title=f"{known.dataset}, {known.backbone}, one image of {known.image_size} px, {threads} threads",
        box=None,
    )  # fmt: skip
    changes = {
        "ONNX Runtime": known.onnx.val_auroc_change,
        "int8": known.int8 and known.int8.val_auroc_change,
    }
    for name, ms in medians.items():
        engine = name.rpartition(", ")[2]
        change = changes.get(engine) if not name.startswith("ftl") else None
        table.add_row(
            name,
            f"{ms:.3f}",
            f"{medians['ftl, torch'] / ms:.1f}",
            f"{medians['ftl, ONNX Runtime'] / ms:.2f}",
            "" if change is None else f"{change:+.5f}",
        )  # fmt: skip
    Console(width=120).print(table)


def _spec(known: Description, strategy: str, cut: str) -> NetworkSpec:
    return NetworkSpec(
        backbone=known.backbone,
        strategy=strategy,
        cut=cut,
        num_classes=known.num_classes,
        image_size=known.image_size,
        depth=known.depth,
    )


def _eager(net: torch.nn.Module, image: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return net(image)

    return run


def _session(path: Path, image: torch.Tensor, threads: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Two engines in one process: threads that spin after their work would slow the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    array = image.numpy()
    return lambda: session.run([OUTPUT], {INPUT: array})


if __name__ == "__main__":
    typer.run(main)

"""How long one image takes on a device, by cut: eager torch.

`python -m benchmarks.device_latency`. The exported models of a project are measured by `benchmarks.latency`.
"""

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ttl.models.cost import cost
from ttl.models.names import FULL
from ttl.models.network import NetworkSpec, build_network


def main(
    backbone: Annotated[str, typer.Option(help="A timm model.")] = "efficientnet_lite0",
    cut: Annotated[list[str] | None, typer.Option(help="Repeatable; `full` is the whole network.")] = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
) -> None:
    """Print a row for each cut."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    table = Table("cut", "parameters", "MACs", "ms", title=f"{backbone}, {image_size} px, {name}", box=None)
    for one in cut or [FULL, "blocks.4", "blocks.2", "blocks.0"]:
        spec = NetworkSpec(
            backbone=backbone,
            strategy="ftl" if one == FULL else "ttl",
            cut=one,
            num_classes=2,
            image_size=image_size,
        )
        network = build_network(spec, pretrained=False).to(device).to(memory_format=torch.channels_last)
        found = cost(network, image_size)
        table.add_row(one, f"{found.params:,}", f"{found.macs:,}", f"{found.latency_ms:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)

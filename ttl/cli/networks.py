"""`ttl cuts` and `ttl cost`: where a backbone can be cut, and what that leaves."""

from typing import Annotated

import typer

from ttl.cli.shared import Json, show
from ttl.errors import ParamsError

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415


def cuts(
    backbone: Annotated[str, typer.Argument(help="A model of timm, or torchvision's r3d_18.")],
    granularity: Annotated[str | None, typer.Option(help="stage or block; both if not given.")] = None,
    as_json: Json = False,
) -> None:
    """List where a backbone can be cut, from the bottom to the top."""
    from dataclasses import asdict

    from ttl import tables
    from ttl.models.cuts import GRANULARITIES, list_cuts

    wanted = [one for one in GRANULARITIES if granularity in (None, one)]
    if not wanted:
        raise ParamsError(f"granularity is {granularity!r}; it must be one of: {', '.join(GRANULARITIES)}")
    rows = [asdict(cut) for one in wanted for cut in list_cuts(backbone, one)]
    show(rows, tables.cuts(backbone, rows), as_json)


def cost(  # noqa: PLR0917 - typer calls it by keyword
    backbone: Annotated[str, typer.Argument(help="A model of timm, or torchvision's r3d_18.")],
    strategy: Annotated[list[str] | None, typer.Option(help="Repeatable; all if not given.")] = None,
    cut: Annotated[list[str] | None, typer.Option(help="Repeatable; all stage cuts if not given.")] = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    depth: Annotated[
        int | None, typer.Option(help="Slices, for volumes; of a network of volumes, the side.")
    ] = None,
    classes: Annotated[int, typer.Option(help="Number of outputs.")] = 2,
    head: Annotated[str, typer.Option(help="pooled or flattened.")] = "pooled",
    as_json: Json = False,
) -> None:
    """Print parameters, multiply-accumulates, bytes and latency (batch 1, median, this machine)."""
    from dataclasses import asdict

    from ttl import tables
    from ttl.data.fields import convert
    from ttl.models.cost import cost as measure
    from ttl.models.cuts import list_cuts
    from ttl.models.names import FULL, Head
    from ttl.models.network import STRATEGIES, NetworkSpec, build_network
    from ttl.models.weights import VIDEO

    if depth is None and backbone in VIDEO:
        depth = image_size
    rows = []
    for name in strategy or list(STRATEGIES):
        known = STRATEGIES.get(name)
        if known is None:
            raise ParamsError(f"no strategy is called {name!r}; there are: {', '.join(STRATEGIES)}")
        stages = [one.name for one in list_cuts(backbone, "stage") if not one.whole or known.differs_at_top]
        for place in (cut or stages) if known.cuts else [FULL]:
            spec = NetworkSpec(
                backbone=backbone,
                strategy=name,
                cut=place,
                num_classes=classes,
                image_size=image_size,
                head=convert(head, Head, "--head"),
                depth=depth,
            )
            network = build_network(spec, pretrained=False)
            rows.append({"strategy": name, "cut": place, **asdict(measure(network, image_size))})
    show(rows, tables.cost(backbone, image_size, rows, depth=depth), as_json)

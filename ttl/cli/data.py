"""`ttl data …`: the datasets."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ttl.cli.shared import Json, console, escaped, show

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415

data_app = typer.Typer(no_args_is_help=True, help="Datasets: list, prepare, check.")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the datasets of params.yaml, and what is packed of them."""
    from ttl import tables
    from ttl.data.dataset import INFO, PackedDataset
    from ttl.layout import Layout
    from ttl.params import load_params

    layout, rows = Layout(root=Path.cwd()), []
    for name, spec in load_params().prepare.items():
        row: dict[str, Any] = {"dataset": name, "source": spec.source, "packed": False}
        if (layout.datasets / name / INFO).is_file():
            packed = PackedDataset.open(layout.datasets / name)
            row = {**packed.info.to_dict(), **row, "packed": True, "revision": packed.revision}
        rows.append(row)
    show(rows, tables.datasets(rows), as_json)


@data_app.command("prepare")
def data_prepare(
    datasets: Annotated[list[str] | None, typer.Argument(help="Names in params.yaml; all if none.")] = None,
) -> None:
    """Pack datasets: read their source, split, and write data/packed/<dataset>."""
    from ttl.data.prepare import prepare
    from ttl.layout import Layout
    from ttl.params import load_params

    params, layout = load_params(), Layout(root=Path.cwd())
    for name in datasets or list(params.prepare):
        packed = prepare(name, params.spec(name), layout.datasets / name)
        info = packed.info
        sizes = ", ".join(f"{split} {sum(counts.values())}" for split, counts in info.counts.items())
        mark = " (SYNTHETIC)" if info.synthetic else ""
        console.print(f"{name}{mark}: {sizes}; classes {', '.join(info.classes)}", highlight=False)
        for note in info.notes:
            console.print(f"  note: {escaped(note)}", highlight=False, soft_wrap=True)


@data_app.command("check")
def data_check(
    datasets: Annotated[list[str] | None, typer.Argument(help="Names in params.yaml; all if none.")] = None,
) -> None:
    """Read every packed image and compare its checksum."""
    from ttl.data.dataset import PackedDataset
    from ttl.layout import Layout
    from ttl.params import load_params

    params, layout = load_params(), Layout(root=Path.cwd())
    for name in datasets or list(params.prepare):
        packed = PackedDataset.open(layout.datasets / name)
        packed.check()
        console.print(f"{name}: {packed.samples.height} images are as they were packed", highlight=False)

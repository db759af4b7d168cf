"""`ttl similarity`: what finetuning changes in the networks of the last sweep, layer by layer."""

from pathlib import Path
from typing import Annotated

import typer

from ttl.cli.shared import Json, console, escaped, show

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415


def similarity(
    dataset: Annotated[
        list[str] | None, typer.Option(help="Repeatable; all of the last sweep if not given.")
    ] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help="Repeatable; all of the last sweep if not given.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Validation images at most; all if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Compare features before and after finetuning at every cut: SVCCA and CKA, beside a random network's.

    It looks at the last sweep's best whole network of each backbone, on validation images.
    """
    from ttl import tables
    from ttl.layout import Layout
    from ttl.release.similarity import FIGURE, summary
    from ttl.release.transferability import analyse

    layout = Layout(root=Path.cwd())
    made = []
    for one in analyse(layout, datasets=dataset, backbones=backbone, images=images):
        rows = summary(one.table, one.description)
        where = one.folder.relative_to(layout.root)
        made.append({**one.description, "folder": str(where), "summary": rows})
        if as_json:
            continue
        console.print(tables.similarity(one.description, rows))
        for entry in one.description["backbones"]:
            for note in entry["notes"]:
                console.print(f"note: {entry['backbone']}: {escaped(note)}", highlight=False, soft_wrap=True)
        console.print(f"figure: {where / FIGURE}", highlight=False, soft_wrap=True)
    if as_json:
        show(made, None, as_json)

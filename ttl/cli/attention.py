"""`ttl attention`: where the networks of the last sweep look."""

from pathlib import Path
from typing import Annotated

import typer

from ttl.cli.shared import Json, console, escaped, show

# Torch, timm and Prefect take seconds to import: each command imports what it needs.
# ruff: noqa: PLC0415


def attention(
    dataset: Annotated[str | None, typer.Option(help="Of the last sweep; needed if it has several.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Of the last sweep; the selected model's if not given.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=32, help="Test images to show: the rows.")] = 8,
    seed: Annotated[int, typer.Option(help="Draws the images.")] = 0,
    as_json: Json = False,
) -> None:
    """Show where ftl, lwft, tf and ttl look: Grad-CAM of the best trial of each, on the same test images.

    Writes results/analysis/DATASET/attention.png, one sheet, and attention.json, the figures: the area that
    each attends to, and how far its maps stay the same with random weights. THE SHEET SHOWS PATIENTS'
    IMAGES, with their sample ids: share it as you would share them.
    """
    from ttl import tables
    from ttl.layout import Layout
    from ttl.release.attention import SHEET
    from ttl.release.attention import attention as look

    layout = Layout(root=Path.cwd())

    def say(text: str) -> None:
        if not as_json:
            console.print(f"[dim]{escaped(text)}[/]", highlight=False)

    values = look(layout, dataset=dataset, backbone=backbone, images=images, seed=seed, say=say)
    show(values, tables.attention(values), as_json)
    if not as_json:
        for note in values["notes"]:
            console.print(f"note: {escaped(note)}", highlight=False, soft_wrap=True)
        where = (layout.analysis / values["dataset"] / SHEET).relative_to(layout.root)
        console.print(f"sheet: {where} (it shows the images)", highlight=False, soft_wrap=True)

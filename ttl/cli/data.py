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
    params = load_params()
    sources = {name: spec.source for name, spec in params.prepare.items()} | dict.fromkeys(
        params.intake, "drops"
    )
    for name, source in sources.items():
        row: dict[str, Any] = {"dataset": name, "source": source, "packed": False}
        if (layout.datasets / name / INFO).is_file():
            packed = PackedDataset.open(layout.datasets / name)
            row = {
                **packed.info.to_dict(),
                "images": packed.info.sizes,
                **row,
                "packed": True,
                "revision": packed.revision,
            }
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
        sizes = ", ".join(f"{split} {size}" for split, size in info.sizes.items())
        mark = " (SYNTHETIC)" if info.synthetic else ""
        console.print(f"{name}{mark}: {sizes}; classes {', '.join(info.classes)}", highlight=False)
        for note in info.notes:
            console.print(f"  note: {escaped(note)}", highlight=False, soft_wrap=True)


@data_app.command("check")
def data_check(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(help="Names in params.yaml, all if none; or a drop's folder.", metavar="[NAME…|DROP]"),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--dataset", help="The dataset that a drop is for, if there are several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every packed image and compare its checksum; or give the verdict on each file of a drop.

    A drop's files are judged as the intake will: with TTL_INTAKE_KEY and the packed dataset, duplicates and
    patients of the test set are seen too; a sender, who has neither, is told of everything else.
    """
    if datasets and len(datasets) == 1 and Path(datasets[0]).is_dir():
        _check_drop(datasets[0], against, as_json)
        return
    from ttl.data.dataset import PackedDataset
    from ttl.errors import DataError
    from ttl.layout import Layout
    from ttl.params import load_params

    params, layout = load_params(), Layout(root=Path.cwd())
    known = [*params.prepare, *params.intake]
    for name in datasets or known:
        if name not in known and not (layout.datasets / name).is_dir():
            raise DataError(
                f"{name} is neither the folder of a drop nor a dataset of params.yaml "
                f"(which has: {', '.join(known) or 'none'})"
            )
        packed = PackedDataset.open(layout.datasets / name)
        packed.check()
        console.print(f"{name}: {packed.samples.height} images are as they were packed", highlight=False)


def _check_drop(address: str, dataset: str | None, as_json: bool) -> None:
    import os

    from ttl import tables
    from ttl.data.dataset import INFO, PackedDataset
    from ttl.intake.append import check_fits
    from ttl.intake.check import check_drop
    from ttl.intake.drop import open_drop
    from ttl.intake.identity import KEY, Pseudonyms
    from ttl.intake.similar import Known
    from ttl.layout import Layout
    from ttl.params import load_params

    params, layout = load_params(), Layout(root=Path.cwd())
    name = params.intake_name(dataset)
    spec, root, drop = params.intake_spec(name), layout.datasets / name, open_drop(address)
    lacking = drop.lacking()
    packed = PackedDataset.open(root) if (root / INFO).is_file() else None
    if packed is not None:
        check_fits(packed, spec)
    pseudonyms = Pseudonyms.from_environment() if os.environ.get(KEY) else None
    known_images = Known.of(packed if pseudonyms else None)
    workers = len(os.sched_getaffinity(0))
    verdicts = [one.verdict for one in check_drop(drop, spec, known_images, pseudonyms, workers=workers)]
    rows = [
        {"path": one.path, "reason": str(one.reason), "detail": one.detail}
        for one in verdicts
        if one.reason is not None
    ]
    accepted = len(verdicts) - len(rows)
    if as_json:
        show({"accepted": accepted, "quarantined": rows, "lacking": lacking}, None, as_json)
    else:
        if rows:
            console.print(tables.verdicts(rows))
        console.print(f"{accepted} of {len(verdicts)} files would be accepted", highlight=False)
        if pseudonyms is None or packed is None:
            console.print(
                f"note: without {KEY} and data/packed/{name}, duplicates of what is there, and "
                "patients of the test set, are not seen",
                highlight=False,
                soft_wrap=True,
            )
        if lacking:
            console.print(
                f"note: {len(lacking)} listed files are not there, or not whole: the drop would wait"
            )
    if rows or lacking:
        raise typer.Exit(1)

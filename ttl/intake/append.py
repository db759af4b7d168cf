"""Appending what drops brought to a packed dataset: new shards and rows, and all that was there as it was."""

import datetime
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from ttl.data import splits
from ttl.data.dataset import INFO, SAMPLES, SCHEMA, SPLITS, DatasetInfo, PackedDataset, shard_name
from ttl.data.pack import SHARD_BYTES, replacing
from ttl.data.sources.base import task_of
from ttl.errors import DataError
from ttl.intake.received import IMAGES_SCHEMA, ROLLING, Taken, stem, taken
from ttl.intake.spec import IntakeSpec, PatientIds
from ttl.intake.verdict import Checked, Image

PATIENTS: Mapping[PatientIds, str] = {
    "of-site": "A PatientID is taken for a patient of its own site: one person at two sites counts as two.",
    "shared": "A PatientID is taken for the same patient at all sites.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A drop that is being taken: what it is, and the verdict on each of its files, once.

    `hide` gives the keyed hash of a path: names of files may name people.
    """

    site: str
    drop: str
    digest: str
    received_at: datetime.datetime
    checked: Iterable[Checked]
    hide: Callable[[str], str]


def append(
    name: str,
    spec: IntakeSpec,
    deliveries: Iterable[Delivery],
    root: Path,
    *,
    compared_with: str | None = None,
) -> list[Taken]:
    """Make the dataset in the folder `root` of what is there and of these drops; return the drops' records.

    Old shards and rows stay as they are, byte for byte; new images come in new shards, one image at a time
    in memory. The folder is replaced in one step: it has a drop's images and its record, or neither.

    Images of known patients go where the patients are, new patients where `side_of` sends them. A dataset
    that is not there yet is divided as `spec.split` says, and its test split is frozen from then on.

    `compared_with` is the revision in whose light the images were checked, empty where there was no dataset;
    None leaves that open. Raises `DataError` if it is not the one that is there by now, for a drop that was
    taken already, for a first delivery that does not give every split every class, and for images that do
    not fit the dataset.
    """
    with replacing(root) as aside:
        # Nobody else writes from here on.
        before = PackedDataset.open(root) if (root / INFO).is_file() else None
        if compared_with is not None:
            _check_unchanged(root, "" if before is None else before.revision, compared_with)
        if before is not None:
            check_fits(before, spec)
            _keep(root, aside)
        deliveries = _new_ones(deliveries, {} if before is None else {o.digest: o for o in taken(root)})
        first = 0 if before is None else int(before.samples["shard"].max()) + 1  # type: ignore[arg-type]
        records, rows = _write(deliveries, aside, spec, first)
        if before is None and not rows:
            raise DataError(f"{name}: none of the images was accepted, so there is no dataset to begin with")
        sides, notes = _sides(before, rows, spec)
        new = pl.DataFrame([{**row, "split": side} for row, side in zip(rows, sides, strict=True)], SCHEMA)
        samples = new if before is None else pl.concat([before.samples, new])
        twice = samples.filter(pl.col("sample_id").is_duplicated())
        if twice.height:
            raise DataError(f"{name}: sample {twice['sample_id'][0]} is there already; names must differ")
        samples.write_parquet(aside / SAMPLES)
        info = _describe(name, spec, samples, before, notes)
        (aside / INFO).write_text(
            json.dumps(info.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return records


def side_of(patient_id: str, spec: IntakeSpec) -> str:
    """Return the split of a patient who came after the test set was frozen.

    It follows from the patient's keyed hash alone: whatever drops the images come in, in whichever order,
    the same patient is on the same side, and every drop, however small, gives each side its share.
    """
    share = int(patient_id, 16) / 16 ** len(patient_id)
    if share < spec.rolling:
        return ROLLING
    val = spec.split.val / (spec.split.train + spec.split.val)
    return "val" if (share - spec.rolling) / (1 - spec.rolling) < val else "train"


def _sides(
    before: PackedDataset | None, rows: Sequence[Mapping[str, Any]], spec: IntakeSpec
) -> tuple[list[str], tuple[str, ...]]:
    if before is None:
        made = splits.divide(
            [row["label"] for row in rows],
            [row["patient_id"] for row in rows],
            [row["sha256"] for row in rows],
            classes=spec.classes,
            fractions=spec.split.to_dict(),
            seed=spec.seed,
        )
        return list(made.names), made.notes
    known = dict(before.samples.select("patient_id", "split").iter_rows())
    for row in rows:
        if known.get(row["patient_id"]) == "test":
            raise DataError(f"{row['sample_id']} is of a patient of the test set, which is frozen")
    return [known.get(row["patient_id"]) or side_of(row["patient_id"], spec) for row in rows], ()


def _write(
    deliveries: Iterable[Delivery], folder: Path, spec: IntakeSpec, first: int
) -> tuple[list[Taken], list[dict[str, Any]]]:
    per_shard = max(1, SHARD_BYTES // int(np.prod(spec.shape)))
    records: list[Taken] = []
    rows: list[dict[str, Any]] = []
    for delivery in deliveries:
        quarantined: dict[str, str] = {}
        hashes: list[tuple[str, str]] = []
        number = first + (rows[-1]["shard"] - first + 1 if rows else 0)
        for position, image in enumerate(_accepted(delivery, quarantined)):
            shard, row = divmod(position, per_shard)
            path = folder / shard_name(number + shard)
            with path.open("ab") if row else _create(path) as file:
                file.write(np.ascontiguousarray(image.pixels).data)
            rows.append(_row(image, delivery.site, number + shard, row))
            hashes.append((image.sample_id, image.phash))
        record = Taken(
            site=delivery.site,
            drop=delivery.drop,
            digest=delivery.digest,
            received_at=delivery.received_at,
            accepted=len(hashes),
            quarantined=quarantined,
            patient_ids=spec.patient_ids,
        )
        drop = stem(delivery.digest)
        with _create(folder / f"{drop}.parquet") as file:
            pl.DataFrame(hashes, IMAGES_SCHEMA, orient="row").write_parquet(file)
        with _create(folder / f"{drop}.json") as file:
            file.write(record.to_json().encode())
        records.append(record)
    return records, rows


def _create(path: Path) -> BinaryIO:
    """Open a new file. What is there already is the live dataset's, by another name: see `_keep`."""
    try:
        return path.open("xb")
    except FileExistsError:
        raise DataError(f"the dataset has a {path.name} of none of its drops; remove it") from None


def _new_ones(deliveries: Iterable[Delivery], done: Mapping[str, Taken]) -> Iterator[Delivery]:
    for delivery in deliveries:
        if delivery.digest in done:
            raise DataError(
                f"{delivery.site}/{delivery.drop} was taken meanwhile, at "
                f"{done[delivery.digest].received_at:%Y-%m-%d %H:%M %z}; run this again, it is left out"
            )
        yield delivery


def _accepted(delivery: Delivery, quarantined: dict[str, str]) -> Iterator[Image]:
    for checked in delivery.checked:
        if checked.image is not None:
            yield checked.image
        else:
            assert checked.verdict.reason is not None
            quarantined[delivery.hide(checked.verdict.path)] = str(checked.verdict.reason)


def _row(image: Image, site: str, shard: int, row: int) -> dict[str, Any]:
    return {
        "sample_id": image.sample_id,
        "patient_id": image.patient_id,
        "site": site,
        "acquired_at": image.acquired_at,
        "label": image.label,
        "sha256": image.sha256,
        "shard": shard,
        "row": row,
    }


def _keep(root: Path, aside: Path) -> None:
    """Put what a dataset has beside it into the folder that is to replace it, without a second copy."""
    for path in root.iterdir():
        if path.name in (INFO, SAMPLES):
            continue
        if path.is_symlink():
            (aside / path.name).symlink_to(path.readlink())
            continue
        try:
            os.link(path, aside / path.name)
        except OSError:
            shutil.copyfile(path, aside / path.name)


def check_fits(before: PackedDataset, spec: IntakeSpec) -> None:
    """Raise `DataError` where a dataset was begun with other settings than `spec` has."""
    info = before.info
    if info.task == "multilabel":
        raise DataError(f"{before.root} has several labels an image; drops give one, so none can be taken in")
    if (info.classes, info.shape) != (spec.classes, spec.shape):
        raise DataError(
            f"{before.root} has classes {', '.join(info.classes)} and images {info.shape}; params.yaml says "
            f"{', '.join(spec.classes)} and {spec.shape}: a dataset keeps what it began with, under another "
            "name another may begin"
        )
    for what, then, now in (("fit", info.fit, spec.fit), ("window", info.window, spec.windowing)):
        # A dataset of an earlier version does not say its window.
        if then not in (now, None):
            raise DataError(
                f"{before.root} was made with {what} {then}; params.yaml says {now}, by which later images "
                "would be others: a dataset keeps what it began with, under another name another may begin"
            )
    others = {one.patient_ids for one in taken(before.root)} - {spec.patient_ids}
    if others:
        raise DataError(
            f"{before.root} was made with patient_ids: {others.pop()}; params.yaml says {spec.patient_ids}, "
            "by which patients of before would be others, and those of the frozen test set not known again: "
            "a dataset keeps what it began with, under another name another may begin"
        )


def _check_unchanged(root: Path, now: str, then: str) -> None:
    if now != then:
        raise DataError(
            f"{root} has become {now} while drops were checked against {then or 'none'}: somebody else has "
            "taken drops in; run this again, no drop is lost"
        )


def _describe(
    name: str, spec: IntakeSpec, samples: pl.DataFrame, before: PackedDataset | None, notes: tuple[str, ...]
) -> DatasetInfo:
    counts = {split: dict.fromkeys(spec.classes, 0) for split in (*SPLITS, ROLLING)}
    for split, label, count in samples.group_by("split", "label").len().iter_rows():
        counts[split][spec.classes[label]] = count
    return DatasetInfo(
        name=name,
        task=task_of(spec.classes),
        classes=spec.classes,
        shape=spec.shape,
        licence=spec.licence,
        source=f"drops of {', '.join(sorted(set(samples['site'].drop_nulls())))}",
        counts=counts,
        synthetic=spec.synthetic,
        notes=(*notes, PATIENTS[spec.patient_ids]) if before is None else before.info.notes,
        fit=spec.fit,
        window=spec.windowing if before is None else before.info.window,
    )

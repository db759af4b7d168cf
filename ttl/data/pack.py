"""Writing a packed dataset: samples stream into shards beside the old dataset, which is then replaced."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.data import splits
from ttl.data.dataset import (
    INFO,
    SAMPLES,
    SPLITS,
    VOLUME_DIMENSIONS,
    DatasetInfo,
    PackedDataset,
    pixel_hash,
    schema_of,
    shard_name,
)
from ttl.data.labels import Label, Policy, resolve_uncertain, uncertain_notes
from ttl.data.sources.base import Contents, Sample
from ttl.errors import DataError

SHARD_BYTES = 256_000_000


def pack(
    name: str,
    contents: Contents,
    out: Path,
    *,
    fractions: Mapping[str, float],
    seed: int,
    shard_bytes: int = SHARD_BYTES,
) -> PackedDataset:
    """Write the samples of `contents` to the folder `out` and return them opened.

    Only one image is held in memory at a time. The same contents give the same bytes. `out` is replaced in
    one step once all is written; when anything fails, what was there stays. Raises `DataError` for samples
    that do not fit together, and whatever `contents` raises.
    """
    _check_shape(contents.shape)
    with replacing(out) as aside:
        rows = _write_shards(contents, aside, shard_bytes)
        several = contents.task == "multilabel"
        given_labels = [r["label"] for r in rows]
        # Before the policy: it is for training labels, and these are of any side.
        labels = _resolved(given_labels, "ignore") if several else given_labels
        patients = [r["patient_id"] for r in rows]
        hashes, given = [r["sha256"] for r in rows], [r["split"] for r in rows]
        if contents.given_split:
            split = splits.keep(labels, patients, hashes, given, classes=contents.classes)
        else:
            split = splits.divide(
                labels, patients, hashes, classes=contents.classes, fractions=fractions, seed=seed
            )
        notes = list(split.notes)
        applied: Policy = "ignore"
        if several:
            notes = [*uncertain_notes(given_labels, contents.classes, contents.uncertain), *notes]
            resolved = _resolved(given_labels, contents.uncertain)
            chosen = [
                one if side == "train" else known
                for one, known, side in zip(resolved, labels, split.names, strict=True)
            ]
            if chosen != labels:
                applied, labels = contents.uncertain, chosen
        for row, side, label in zip(rows, split.names, labels, strict=True):
            row["split"], row["label"] = side, label
            # Where patients are not known, a patient is an image and its exact copies.
            row["patient_id"] = row["patient_id"] or f"image-{row['sha256'][:16]}"
        schema = schema_of(contents.task, len(contents.classes))
        pl.DataFrame(rows, schema=schema).write_parquet(aside / SAMPLES)
        info = _describe(
            name, contents, splits.count(labels, split.names, classes=contents.classes), tuple(notes)
        )
        sizes = Counter(split.names)
        images = {side: sizes[side] for side in SPLITS} if several else None
        info = dataclasses.replace(info, uncertain=applied, images=images)
        text = json.dumps(info.to_dict(), indent=2, ensure_ascii=False)
        (aside / INFO).write_text(text + "\n", encoding="utf-8")
    return PackedDataset.open(out)


def _describe(
    name: str, contents: Contents, counts: dict[str, dict[str, int]], notes: tuple[str, ...]
) -> DatasetInfo:
    own = {"name", "counts", "images", "notes", "uncertain", "window"}
    shared = {field.name for field in dataclasses.fields(DatasetInfo)} - own
    return DatasetInfo(
        name=name,
        counts=counts,
        notes=(*contents.notes, *notes),
        **{field: getattr(contents, field) for field in shared},
    )


def _write_shards(contents: Contents, folder: Path, shard_bytes: int) -> list[dict[str, Any]]:
    per_shard = max(1, shard_bytes // int(np.prod(contents.shape)))
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None
        for index, sample in enumerate(contents.samples):
            _check(sample, contents)
            if sample.sample_id in seen:
                raise DataError(f"two samples are called {sample.sample_id!r}; names must differ")
            seen.add(sample.sample_id)
            shard, row = divmod(index, per_shard)
            if row == 0 or file is None:
                stack.close()
                file = stack.enter_context((folder / shard_name(shard)).open("wb"))
            file.write(np.ascontiguousarray(sample.pixels).data)
            rows.append(_row(sample, shard, row))
    if not rows:
        raise DataError("the source has no samples")
    return rows


def _row(sample: Sample, shard: int, row: int) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "patient_id": sample.patient_id,
        "site": sample.site,
        "acquired_at": sample.acquired_at,
        "label": sample.label,
        "split": sample.split,
        "sha256": pixel_hash(sample.pixels),
        "shard": shard,
        "row": row,
    }


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (VOLUME_DIMENSIONS - 1, VOLUME_DIMENSIONS):
        raise DataError(f"samples of shape {shape} are neither images, (c, h, w), nor volumes, (1, d, h, w)")
    if len(shape) == VOLUME_DIMENSIONS and (shape[0] != 1 or shape[2] != shape[3]):
        raise DataError(
            f"volumes of shape {shape} cannot be packed: they have one channel, and slices that are square"
        )


def _check(sample: Sample, contents: Contents) -> None:
    pixels: NDArray[np.uint8] = sample.pixels
    if pixels.dtype != np.uint8 or pixels.shape != contents.shape:
        raise DataError(
            f"{sample.sample_id} is {pixels.dtype} {pixels.shape}; "
            f"the dataset's images are uint8 {contents.shape}"
        )
    if isinstance(sample.label, tuple) != (contents.task == "multilabel"):
        raise DataError(f"{sample.sample_id} has label {sample.label}; the task is {contents.task}")
    if isinstance(sample.label, tuple):
        if len(sample.label) != len(contents.classes):
            raise DataError(
                f"{sample.sample_id} has {len(sample.label)} labels; there are {len(contents.classes)} "
                f"classes ({', '.join(contents.classes)})"
            )
        try:
            resolve_uncertain(sample.label, contents.uncertain)
        except DataError as error:
            raise DataError(f"{sample.sample_id}: {error}") from error
    elif not 0 <= sample.label < len(contents.classes):
        raise DataError(
            f"{sample.sample_id} has label {sample.label}; the {len(contents.classes)} classes "
            f"({', '.join(contents.classes)}) are numbered from 0"
        )
    if contents.given_split and sample.split not in SPLITS:
        raise DataError(
            f"{sample.sample_id} has split {sample.split!r}; it must be one of {', '.join(SPLITS)}"
        )


def _resolved(labels: list[Any], policy: Policy) -> list[Label]:
    return [tuple(row) for row in resolve_uncertain(labels, policy).tolist()]


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place at the end, unless an error comes first.

    An operating-system lock keeps two writers of one dataset apart and goes with its process, so what a
    killed writer left is safe to remove. Raises `DataError` while another process is writing it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    with _locked(out):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            _settle(out, old)
            yield aside
            _flush(aside)
            if out.exists():
                out.rename(old)
            aside.rename(out)
        finally:
            _settle(out, old)
            shutil.rmtree(aside, ignore_errors=True)


def settle(out: Path) -> None:
    """Bring a dataset back whose writer was killed when it was about to put the new one into its place.

    Raises `DataError` while another process is writing it.
    """
    old = out.with_name(f".{out.name}.old")
    if old.exists():
        with _locked(out):
            _settle(out, old)


def _settle(out: Path, old: Path) -> None:
    """Leave one of the two: the old dataset where the new one did not come into its place."""
    if old.exists():
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    # Not on a folder that is moved or removed: whoever came next would lock another one.
    with out.with_name(f".{out.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out} is being written by another process; wait until it is done") from error
        yield


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())

"""Datasets for measurements: pixels of no meaning, in the shape and number that is wanted."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from ttl.data.dataset import INFO, SAMPLES, SCHEMA, DatasetInfo, PackedDataset, shard_name

PER_SHARD = 65536


def make_dataset(
    folder: Path, *, images: int, size: int, channels: int = 1, empty: bool = False
) -> PackedDataset:
    """Write a packed dataset of two classes: 80 % training, 10 % validation, 10 % test images.

    With `empty`, pixels are zero and take no room on the disk.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shape = (channels, size, size)
    for shard, start in enumerate(range(0, images, PER_SHARD)):
        count = min(PER_SHARD, images - start)
        with (folder / shard_name(shard)).open("wb") as file:
            if empty:
                file.truncate(count * channels * size * size)
            else:
                # Noise, and a mean brightness that tells the class: so that the loss falls.
                for row in range(start, start + count):
                    file.write(rng.integers(0, 200 + 40 * (row // 10 % 2), shape, dtype=np.uint8).tobytes())
    numbers = pl.int_range(images, eager=True)
    tenth = numbers % 10
    samples = pl.DataFrame({"number": numbers}).select(
        sample_id=pl.format("s{}", pl.col("number").cast(pl.String).str.zfill(8)),
        patient_id=pl.format("p{}", "number"),
        site=pl.lit(None, pl.String),
        acquired_at=pl.lit(None, pl.Date),
        label=pl.col("number") // 10 % 2,
        split=tenth.replace_strict({8: "val", 9: "test"}, default="train", return_dtype=pl.String),
        sha256=pl.format("{}", "number"),
        shard=pl.col("number") // PER_SHARD,
        row=pl.col("number") % PER_SHARD,
    ).match_to_schema(SCHEMA)  # fmt: skip
    samples.write_parquet(folder / SAMPLES)
    counts = {
        split: {name: samples.filter(split=split, label=label).height for label, name in enumerate("ab")}
        for split in ("train", "val", "test")
    }
    info = DatasetInfo(
        name=folder.name,
        task="binary",
        classes=("a", "b"),
        shape=shape,
        licence="none",
        source="benchmark",
        counts=counts,
        synthetic=True,
    )
    (folder / INFO).write_text(json.dumps(info.to_dict()), encoding="utf-8")
    return PackedDataset.open(folder)

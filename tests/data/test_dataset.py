"""Opening packed datasets, whole and damaged."""

import json

import numpy as np
import polars as pl
import pytest

from ttl.data.dataset import DatasetInfo, PackedDataset, pixel_hash
from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError


@pytest.fixture
def data(tmp_path):
    spec = DatasetSpec(source="phantom", size=16, options={"patients": 20})
    return prepare("small", spec, tmp_path / "small")


def test_the_description_survives_its_file(data):
    read = json.loads((data.root / "dataset.json").read_text(encoding="utf-8"))
    assert DatasetInfo.from_dict(read) == data.info
    assert read["counts"] == data.info.counts


def test_splits_are_row_numbers_of_the_table(data):
    rows = np.concatenate([data.indices(split) for split in ("train", "val", "test")])
    assert sorted(rows.tolist()) == list(range(len(data.samples)))
    assert set(data.samples[data.indices("val")]["split"]) == {"val"}
    assert len(data.indices("train")) == sum(data.info.counts["train"].values())


def test_no_rows_are_no_pixels(data):
    assert data.read(np.array([], dtype=np.int64)).shape == (0, 1, 16, 16)


def test_an_absent_dataset_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match="`ttl data prepare nowhere` makes it"):
        PackedDataset.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["dataset.json", "samples.parquet"])
def test_a_damaged_description_is_named(data, name):
    (data.root / name).write_bytes(b"{}")
    with pytest.raises(DataError, match="not a usable dataset"):
        PackedDataset.open(data.root)


def test_foreign_columns_are_named(data):
    data.samples.drop("site").write_parquet(data.root / "samples.parquet")
    with pytest.raises(DataError, match=r"samples\.parquet has columns"):
        PackedDataset.open(data.root)


def test_a_short_shard_is_named(data):
    shard = data.root / "shard-00000.u8"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-00000\.u8 is missing or too short"):
        PackedDataset.open(data.root).read(np.array([0]))


def test_a_changed_pixel_is_found(data):
    shard = data.root / "shard-00000.u8"
    pixels = bytearray(shard.read_bytes())
    pixels[16 * 16 * 2] ^= 1
    shard.write_bytes(pixels)
    with pytest.raises(DataError, match="the pixels of phantom-00000-2"):
        PackedDataset.open(data.root).check()


def test_a_hash_is_of_pixels_and_shape():
    pixels = np.arange(64, dtype=np.uint8)
    one = pixel_hash(pixels.reshape(1, 8, 8))
    assert one == pixel_hash(np.asfortranarray(pixels.reshape(1, 8, 8)))
    assert one != pixel_hash(pixels.reshape(1, 4, 16))


def test_a_changed_label_changes_the_revision(data):
    before = data.revision
    flipped = data.samples.with_columns(
        label=pl.when(pl.int_range(pl.len()) == 0).then(1 - pl.col("label")).otherwise("label")
    )
    flipped.write_parquet(data.root / "samples.parquet")
    assert PackedDataset.open(data.root).revision != before

"""Packed datasets on disk: the same bytes each time, whole or not there, bounded in memory."""

import datetime
import hashlib
import multiprocessing
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ttl.data.dataset import PackedDataset, pixel_hash
from ttl.data.pack import pack
from ttl.data.prepare import prepare
from ttl.data.sources.base import Contents, Sample
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
SHAPE = (1, 8, 8)


def make(count, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield Sample(
            sample_id=f"s{i}",
            pixels=rng.integers(0, 256, SHAPE, dtype=np.uint8),
            label=i % 2,
            patient_id=f"p{i // 2}",
            site="north" if i % 3 else None,
            acquired_at=datetime.date(2024, 1, 1 + i % 28),
        )


def contents(samples, **changes):
    given = {
        "task": "binary",
        "classes": ("no", "yes"),
        "shape": SHAPE,
        "licence": "CC0 1.0",
        "source": "noise",
        "samples": iter(samples),
    }
    return Contents(**{**given, **changes})


def write(out, samples, *, shard_bytes=256_000_000, seed=0, **changes):
    return pack(
        "noise", contents(samples, **changes), out, fractions=FRACTIONS, seed=seed, shard_bytes=shard_bytes
    )


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_what_goes_in_comes_out(tmp_path):
    samples = list(make(40))
    data = write(tmp_path / "d", samples, shard_bytes=640)
    assert data.samples["shard"].to_list() == [i // 10 for i in range(40)]
    assert data.samples["row"].to_list() == [i % 10 for i in range(40)]
    assert {p.stat().st_size for p in data.root.glob("shard-*")} == {640}
    order = np.array([39, 0, 17, 17, 9, 10])
    assert np.array_equal(data.read(order), np.stack([samples[i].pixels for i in order]))
    assert data.samples["label"].to_list() == [s.label for s in samples]
    assert data.samples["acquired_at"].to_list() == [s.acquired_at for s in samples]
    assert data.samples["site"].to_list() == [s.site for s in samples]
    assert data.info.counts["train"] == {"no": 12, "yes": 12}
    assert sum(n for c in data.info.counts.values() for n in c.values()) == 40
    data.check()


def test_the_same_contents_give_the_same_bytes_and_revision(tmp_path):
    one = write(tmp_path / "one", make(40))
    two = write(tmp_path / "elsewhere" / "two", make(40))
    assert digests(one.root) == digests(two.root)
    assert one.revision == two.revision


def test_the_revision_follows_content_and_nothing_else(tmp_path):
    base = write(tmp_path / "base", make(40))
    os.utime(base.root / "shard-00000.u8", (1, 1))
    moved = base.root.rename(tmp_path / "moved")
    revision = PackedDataset.open(moved).revision
    assert revision == base.revision
    assert write(tmp_path / "shards", make(40), shard_bytes=640).revision == revision
    assert write(tmp_path / "notes", make(40), notes=("A remark.",)).revision == revision
    assert write(tmp_path / "pixels", make(40, seed=1)).revision != revision
    assert write(tmp_path / "sides", make(40), seed=1).revision != revision
    assert write(tmp_path / "names", make(40), classes=("no", "maybe")).revision != revision


def test_appended_samples_leave_the_full_shards_and_the_rows_before_them(tmp_path):
    few = write(tmp_path / "few", make(40), shard_bytes=640)
    more = write(tmp_path / "more", make(46), shard_bytes=640)
    before, after = digests(few.root), digests(more.root)
    shards = [name for name in before if name.startswith("shard")]
    assert len(shards) == 4
    assert all(before[name] == after[name] for name in shards)
    place = ["sample_id", "sha256", "shard", "row"]
    assert more.samples.select(place).head(40).equals(few.samples.select(place))
    assert few.revision != more.revision


def test_a_shard_added_by_hand_is_read(tmp_path):
    data = write(tmp_path / "d", make(40))
    added = np.full((2, *SHAPE), 7, dtype=np.uint8)
    added[1] = 9
    (data.root / "shard-00001.u8").write_bytes(added.tobytes())
    rows = data.samples.head(2).with_columns(
        sample_id=pl.Series(["n0", "n1"]),
        sha256=pl.Series([pixel_hash(a) for a in added]),
        shard=pl.lit(1, pl.Int64),
    )
    pl.concat([data.samples, rows]).write_parquet(data.root / "samples.parquet")
    grown = PackedDataset.open(data.root)
    assert grown.read(np.array([41, 3, 40]))[:, 0, 0, 0].tolist() == [
        9,
        data.read(np.array([3]))[0, 0, 0, 0],
        7,
    ]
    grown.check()


def test_memory_does_not_grow_with_the_dataset(tmp_path):
    shape = (1, 128, 128)

    def samples():
        for i in range(400):
            pixels = np.zeros(shape, dtype=np.uint8)
            pixels[0, i // 128, i % 128] = 1 + i // 200
            yield Sample(sample_id=str(i), pixels=pixels, label=i % 2)

    tracemalloc.start()
    write(tmp_path / "d", samples(), shape=shape, shard_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_500_000  # of 6,553,600 bytes of pixels


def test_an_error_leaves_the_old_dataset_and_nothing_else(tmp_path):
    old = write(tmp_path / "d", make(40))

    def broken():
        yield from make(10, seed=1)
        raise DataError("line 11: unreadable")

    with pytest.raises(DataError, match="line 11"):
        write(tmp_path / "d", broken())
    assert PackedDataset.open(tmp_path / "d").revision == old.revision
    assert {p.name for p in tmp_path.iterdir()} == {"d", ".d.lock"}


def test_a_new_dataset_replaces_the_old_one(tmp_path):
    write(tmp_path / "d", make(40), shard_bytes=640)
    new = write(tmp_path / "d", make(20, seed=1))
    assert len(PackedDataset.open(tmp_path / "d").samples) == 20
    assert sorted(digests(new.root)) == ["dataset.json", "samples.parquet", "shard-00000.u8"]
    assert {p.name for p in tmp_path.iterdir()} == {"d", ".d.lock"}


def _die_half_way(out):
    def samples():
        yield from make(10, seed=1)
        os._exit(9)

    write(out, samples())


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path):
    out = tmp_path / "d"
    old = write(out, make(40))
    writer = multiprocessing.get_context("spawn").Process(target=_die_half_way, args=(out,))
    writer.start()
    writer.join()
    assert writer.exitcode == 9
    (tmp_path / ".d.partial" / "shard-00007.u8").write_bytes(b"left over")
    assert PackedDataset.open(out).revision == old.revision
    new = write(out, make(20, seed=2))
    assert sorted(digests(new.root)) == ["dataset.json", "samples.parquet", "shard-00000.u8"]
    assert {p.name for p in tmp_path.iterdir()} == {"d", ".d.lock"}


def test_an_old_dataset_that_a_killed_writer_had_replaced_goes(tmp_path):
    write(tmp_path / "d", make(40)).root.rename(tmp_path / ".d.old")
    write(tmp_path / "d", make(30))
    (tmp_path / ".d.old").mkdir(exist_ok=True)
    (tmp_path / ".d.old" / "dataset.json").write_text("{}")
    assert len(write(tmp_path / "d", make(20)).samples) == 20
    assert {p.name for p in tmp_path.iterdir()} == {"d", ".d.lock"}


def test_a_dataset_moved_aside_by_a_killed_writer_comes_back(tmp_path):
    old = write(tmp_path / "d", make(40))
    (tmp_path / "d").rename(tmp_path / ".d.old")

    def broken():
        raise DataError("no")
        yield

    with pytest.raises(DataError, match="no"):
        write(tmp_path / "d", broken())
    assert PackedDataset.open(tmp_path / "d").revision == old.revision


def test_a_writer_is_alone_until_what_it_replaced_is_gone(tmp_path, monkeypatch):
    out, met = tmp_path / "d", []
    write(out, make(20))
    remove = shutil.rmtree

    def meanwhile(path, *arguments, **options):
        if Path(path).name == ".d.old":
            with pytest.raises(DataError, match="being written by another process"):
                write(out, make(10, seed=1))
            met.append(path)
        remove(path, *arguments, **options)

    monkeypatch.setattr("ttl.data.pack.shutil.rmtree", meanwhile)
    assert len(write(out, make(30)).samples) == 30
    assert met


def test_two_writers_of_one_dataset_are_kept_apart(tmp_path):
    out = tmp_path / "d"

    def slow():
        for sample in make(40):
            if sample.sample_id == "s5":
                with pytest.raises(DataError, match="being written by another process"):
                    write(out, make(10, seed=1))
            yield sample

    assert len(write(out, slow()).samples) == 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": np.zeros((1, 8, 9), dtype=np.uint8)}, r"s3 is uint8 \(1, 8, 9\).*\(1, 8, 8\)"),
        ({"pixels": np.zeros(SHAPE)}, "s3 is float64"),
        ({"label": 2}, r"s3 has label 2; the 2 classes \(no, yes\)"),
        ({"sample_id": "s1"}, "two samples are called 's1'"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(change, said, tmp_path):
    samples = list(make(6))
    fields = {name: getattr(samples[3], name) for name in Sample.__slots__}
    samples[3] = Sample(**{**fields, **change})
    with pytest.raises(DataError, match=said):
        write(tmp_path / "d", samples)
    assert [p.name for p in tmp_path.iterdir()] == [".d.lock"]


def test_a_split_that_is_no_split_is_named(tmp_path):
    with pytest.raises(DataError, match="s0 has split None; it must be one of train, val, test"):
        write(tmp_path / "d", make(6), given_split=True)


def test_no_samples_are_no_dataset(tmp_path):
    with pytest.raises(DataError, match="no samples"):
        write(tmp_path / "d", [])


def test_an_error_names_the_dataset(tmp_path):
    spec = DatasetSpec(source="folder", input=str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"dataset mine: the input .*absent does not exist"):
        prepare("mine", spec, tmp_path / "out")

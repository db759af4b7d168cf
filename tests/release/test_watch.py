"""Drops are told apart by their content, and what cannot be told is not taken for undrifted."""

import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ttl.data.dataset import PackedDataset
from ttl.data.pack import pack
from ttl.data.sources.base import Contents, Sample
from ttl.errors import DataError
from ttl.evaluation.drift import DriftReport
from ttl.intake.received import IMAGES_SCHEMA, Taken, taken
from ttl.release import watch as module
from ttl.release.testsets import rolling_since
from ttl.release.watch import drift_of, drops_since, watch

SIDE = 8


def grow(root: Path, *drops: tuple[str, str, str, int, float]) -> PackedDataset:
    """A dataset of drops: site, name, split, patients of two images each, and how bright these are."""
    rng = np.random.default_rng(0)
    samples, records = [], []
    for number, (site, name, split, patients, brightness) in enumerate(drops):
        ids = []
        for image in range(2 * patients):
            ids.append(f"{number}-{image}")
            pixels = rng.normal(brightness, 20, (1, SIDE, SIDE)).clip(0, 255).astype(np.uint8)
            samples.append(
                Sample(
                    sample_id=ids[-1],
                    pixels=pixels,
                    label=image // 2 % 2,
                    patient_id=f"{number}-p{image // 2}",
                    site=site,
                    split="train" if split == "train" else "test",
                )
            )
        received = datetime.datetime(2026, 3, 1 + number, tzinfo=datetime.UTC)
        record = Taken(site=site, drop=name, digest=f"{number}" * 64, received_at=received, accepted=len(ids))
        records.append((record, ids, split))
    # Every split must have every class.
    samples += [
        Sample(sample_id=f"{split}-{label}", pixels=rng.integers(0, 255, (1, SIDE, SIDE), np.uint8),
               label=label, patient_id=f"{split}-{label}", split=split)
        for split in ("train", "val", "test") for label in (0, 1)
    ]  # fmt: skip
    contents = Contents(
        task="binary",
        classes=("normal", "finding"),
        shape=(1, SIDE, SIDE),
        licence="CC0 1.0",
        source="drawn",
        samples=iter(samples),
        given_split=True,
    )
    dataset = pack("drawn", contents, root, fractions={}, seed=0)
    rolling = [one for _, ids, split in records if split == "rolling" for one in ids]
    is_rolling = pl.col("sample_id").is_in(rolling)
    dataset.samples.with_columns(
        pl.when(is_rolling).then(pl.lit("rolling")).otherwise("split").alias("split")
    ).write_parquet(root / "samples.parquet")
    for record, ids, _ in records:
        stem = root / f"drop-{record.digest[:16]}"
        rows = pl.DataFrame([(one, "0") for one in ids], IMAGES_SCHEMA, orient="row")
        rows.write_parquet(stem.with_suffix(".parquet"))
        stem.with_suffix(".json").write_text(record.to_json())
    return PackedDataset.open(root)


def test_a_folder_whose_name_is_used_again_is_another_drop(tmp_path: Path) -> None:
    dataset = grow(
        tmp_path / "drawn", ("north", "weekly", "test", 40, 100), ("north", "weekly", "rolling", 20, 140)
    )
    first, second = taken(dataset.root)
    report = drift_of(dataset, second, None)
    assert report.drifted
    mask = rolling_since(dataset, second)
    assert mask.sum() == 40
    assert drops_since(dataset, {first.digest}) == [second]
    found = watch(dataset, [first, second], None)
    assert [one.title for one in found] == [
        "north/weekly of 2026-03-01 00:00, 00000000",
        "north/weekly of 2026-03-02 00:00, 11111111",
    ]
    assert found[0].why == (
        "whether its images have drifted cannot be told: north had sent nothing before, or all of it "
        "was trained on"
    )
    assert [one.changed for one in found] == [True, True]


def test_a_drop_like_those_before_has_not_changed(tmp_path: Path) -> None:
    dataset = grow(tmp_path / "drawn", ("north", "1", "test", 40, 100), ("north", "2", "rolling", 20, 100))
    (found,) = watch(dataset, taken(dataset.root)[1:], None)
    assert isinstance(found.found, DriftReport)
    assert (found.title, found.changed) == ("north/2", False)


def test_images_that_cannot_be_used_end_the_run_and_are_not_called_untold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = grow(tmp_path / "drawn", ("north", "1", "test", 40, 100), ("north", "2", "rolling", 20, 100))
    monkeypatch.setattr(module, "pixel_statistics", lambda pixels: np.full((len(pixels), 3), np.nan))
    with pytest.raises(DataError, match="values that are not finite"):
        watch(dataset, taken(dataset.root)[1:], None)


def test_of_many_images_whole_patients_are_drawn_always_alike() -> None:
    rows = pl.DataFrame(
        {"patient_id": [f"p{number % 30:02}" for number in range(120)], "position": range(120)}
    )
    drawn = module._at_most(rows, 50)
    assert 46 < len(drawn) <= 50
    assert set(drawn["patient_id"].value_counts()["count"]) == {4}
    assert drawn.equals(module._at_most(rows, 50))
    shuffled = rows.sample(fraction=1, shuffle=True, seed=5)
    assert set(module._at_most(shuffled, 50)["position"]) == set(drawn["position"])
    assert module._at_most(rows, 120).equals(rows)

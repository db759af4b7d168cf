import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.release.trained import Trained
from ttl.data.dataset import PackedDataset
from ttl.errors import ReleaseError
from ttl.intake.received import taken
from ttl.release import testsets
from ttl.release.predict import load_model
from ttl.release.testsets import rolling_since, score_tests


def test_both_sets_are_scored_as_the_models_score_their_images(grown: PackedDataset, exported: Path) -> None:
    sets = score_tests(grown, exported, exported)
    assert list(sets) == ["frozen", "rolling"]
    frozen, rolling = sets["frozen"], sets["rolling"]
    assert (len(frozen.labels), len(rolling.labels)) == (24, 24)
    assert (frozen.fewest_patients, rolling.fewest_patients) == (6, 6)
    rows = grown.indices("rolling")
    expected = load_model(exported).probabilities(grown.read(rows))
    assert np.allclose(rolling.challenger, expected, atol=1e-6)
    assert rolling.champion is not None
    assert np.array_equal(rolling.champion, rolling.challenger)
    assert rolling.threshold == rolling.champion_threshold == load_model(exported).threshold
    assert rolling.labels.tolist() == grown.samples[rows]["label"].to_list()
    assert rolling.patients.tolist() == grown.samples[rows]["patient_id"].to_list()
    assert dict(zip(*np.unique(rolling.groups["site"], return_counts=True), strict=True)) == {
        "north": 16,
        "south": 8,
    }
    assert dict(zip(*np.unique(rolling.groups["year"], return_counts=True), strict=True)) == {
        "2024": 12,
        "": 12,
    }
    # What is not stated is no subgroup.
    assert set(frozen.groups["site"]) == {""}


def test_a_set_that_is_not_there_and_a_first_model(trained: Trained, exported: Path) -> None:
    sets = score_tests(trained.dataset, exported, None)
    assert list(sets) == ["frozen"]
    assert (sets["frozen"].champion, sets["frozen"].champion_threshold) == (None, None)


def test_batches_are_joined_in_order(
    grown: PackedDataset, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_tests(grown, exported, None)["frozen"].challenger
    monkeypatch.setattr(testsets, "BATCH", 7)
    assert np.allclose(score_tests(grown, exported, None)["frozen"].challenger, whole, atol=1e-5)


def test_a_model_of_other_classes_is_refused(grown: PackedDataset, exported: Path) -> None:
    info = dataclasses.replace(grown.info, classes=("square", "plain"))
    with pytest.raises(ReleaseError, match=r"tells plain, square apart .* squares has square, plain"):
        score_tests(dataclasses.replace(grown, info=info), exported, None)


def test_what_is_no_number_is_refused_and_not_ranked_last(
    grown: PackedDataset, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(exported)

    def forward(images: object) -> np.ndarray:
        logits = model.forward(images)  # type: ignore[arg-type]
        logits[:3] = np.nan
        return logits

    monkeypatch.setattr(testsets, "load_model", lambda folder: dataclasses.replace(model, forward=forward))
    with pytest.raises(ReleaseError, match="gives 3 of 24 test images no finite probability"):
        score_tests(grown, exported, None)


def test_rolling_images_of_a_site_since_a_drop(grown: PackedDataset) -> None:
    drops = taken(grown.root)
    came = {
        one.digest: set(pl.read_parquet(grown.root / f"drop-{one.digest[:16]}.parquet")["sample_id"])
        for one in drops
    }
    first, second, south = (one.digest for one in drops)
    ids = grown.samples[grown.indices("rolling")]["sample_id"].to_numpy()
    for drop, expected in zip(drops, (came[first] | came[second], came[second], came[south]), strict=True):
        mask = rolling_since(grown, drop)
        assert mask.shape == (24,)
        assert mask.dtype == bool
        assert set(ids[mask]) == expected, drop


def test_a_dataset_without_rolling_images_has_none_since(trained: Trained, grown: PackedDataset) -> None:
    assert rolling_since(trained.dataset, taken(grown.root)[0]).tolist() == []

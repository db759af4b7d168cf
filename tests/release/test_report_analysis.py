"""What other commands have found is shown where it is of this sweep's networks, and of nobody's patients."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from tests.release.sweeps import LITE0
from tests.release.sweeps import trials as made_trials
from ttl.release.choice import best_trials
from ttl.release.report import analysis

NET = "efficientnet_lite0"


def sweep(seeds: int = 1) -> pl.DataFrame:
    """Return a sweep in which one TTL trial has the name of its stage's last block, and another failed."""
    table = made_trials(dataset="films", seeds=seeds)
    ttl = pl.col("strategy") == "ttl"
    block, lost = ttl & (pl.col("cut") == "blocks.1"), ttl & (pl.col("cut") == "blocks.4")
    return table.with_columns(
        cut=pl.when(block).then(pl.lit("blocks.1.2")).otherwise("cut"),
        status=pl.when(lost).then(pl.lit("failed")).otherwise("status"),
    )


def ids(table: pl.DataFrame, strategy: str, *cuts: str) -> list[str]:
    here = table.filter(pl.col("cut").is_in(cuts), strategy=strategy, status="completed")
    return here["trial_id"].to_list()


def leave(folder: Path, *, trials: pl.DataFrame | None = None, revision: str = "r") -> Path:
    """Leave what both commands do, of a sweep's trials."""
    table = sweep() if trials is None else trials
    whole = ids(table.sort("val_auroc", descending=True), "ftl", "full")
    [trial, *_] = whole
    folder.mkdir(parents=True)
    about = {"dataset": "films", "revision": revision}
    backbone: dict[str, Any] = {"backbone": NET, "finetuned": {"trial_id": trial}, "notes": ["few positions"]}
    backbone["whole"] = {"trial_ids": whole}
    backbone["layers"] = [{"layer": "conv_stem", "stage": "stem", "network": None}]
    for stage in LITE0:
        last = f"{stage}.2"
        there = ids(table, "ttl", stage, last)
        network = {"trial_ids": there} if there else None
        backbone["layers"].append({"layer": last, "stage": stage, "network": network})
    (folder / "similarity.json").write_text(json.dumps({**about, "backbones": [backbone]}))
    best, _ = best_trials(table, {}, dataset="films", backbone=NET)
    (folder / "similarity.svg").write_text('<svg viewBox="0 0 640 450" xmlns="http://www.w3.org/2000/svg"/>')
    values = {
        **about,
        "backbone": NET,
        "strategies": {strategy: {"trial_id": row["trial_id"]} for strategy, row in best.items()},
        "notes": ["empty maps"],
        "alt": "Maps of 3",
    }
    (folder / "attention.json").write_text(json.dumps(values))
    Image.new("RGB", (300, 200)).save(folder / "attention.png")
    return folder


def transferability(folder: Path, **changes: Any) -> analysis.Looked:
    values = {"trials": sweep(), "revision": "r", "name": "x", **changes}
    return analysis.similarity(folder, **values)


def sheet(folder: Path, **changes: Any) -> analysis.Looked:
    values = {"pictures": True, "private": "not mailed", "widest": 150, "trials": sweep()}
    entry = {"data": {"revision": changes.pop("revision", "r")}}
    return analysis.attention(folder, **{**values, "entry": entry, **changes})


def test_figures_of_this_sweep_are_shown_with_their_words(tmp_path: Path) -> None:
    leave(tmp_path / "films")
    found = transferability(tmp_path / "films")
    assert (found.missing, found.width, found.height, found.notes) == (
        "",
        640,
        450,
        (f"{NET}: few positions",),
    )
    assert NET in found.alt
    found = sheet(tmp_path / "films")
    assert (found.missing, found.width, found.height, found.alt) == ("", 150, 100, "Maps of 3")
    assert found.picture.startswith("data:image/webp")


OTHERS = sweep().with_columns(trial_id="other " + pl.col("trial_id"))


@pytest.mark.parametrize("changes", [{"trials": OTHERS}, {"revision": "other"}])
def test_what_is_of_another_sweep_is_not_shown(tmp_path: Path, changes: dict[str, Any]) -> None:
    leave(tmp_path / "films")
    for found in (transferability(tmp_path / "films", **changes), sheet(tmp_path / "films", **changes)):
        assert "is of another sweep than this one" in found.missing
        assert not found.picture


def test_a_figure_that_lacks_trials_of_this_sweep_or_has_others_is_not_shown(tmp_path: Path) -> None:
    three = sweep(seeds=3)
    alone = three.filter(seed=0)
    leave(tmp_path / "one", trials=alone)
    assert not transferability(tmp_path / "one", trials=alone).missing
    # Of FTL and of TTL at five cuts, two seeds each; a failed one stands in no figure.
    assert transferability(tmp_path / "one", trials=three).missing == (
        f"What was looked at lacks 12 of this sweep's 18 trials of {NET}; `ttl similarity` looks again."
    )
    first = (pl.col("seed") == 0) | (pl.col("strategy") == "ftl")
    assert (
        "lacks 2 of this sweep's 8" in transferability(tmp_path / "one", trials=three.filter(first)).missing
    )
    leave(tmp_path / "three", trials=three)
    assert not transferability(tmp_path / "three", trials=three).missing
    # What the sweep no longer has, or no longer has completed.
    fewer = three.filter(~((pl.col("strategy") == "ttl") & (pl.col("cut") == "blocks.3")))
    assert "is of another sweep" in transferability(tmp_path / "three", trials=fewer).missing
    stopped = pl.when(cut="blocks.3", strategy="ttl").then(pl.lit("stopped")).otherwise("status")
    found = transferability(tmp_path / "three", trials=three.with_columns(status=stopped))
    assert f"is of other networks of {NET} than this sweep's; `ttl similarity`" in found.missing
    resplit = three.with_columns(resplit=pl.lit("all"))
    assert f"no whole network of {NET}" in transferability(tmp_path / "three", trials=resplit).missing


def test_a_sheet_of_networks_that_are_not_the_best_now_is_not_shown(tmp_path: Path) -> None:
    folder = leave(tmp_path / "films")
    [worst] = ids(sweep().filter(strategy="lwft").sort("val_auroc").head(1), "lwft", *LITE0)
    better = pl.when(trial_id=worst).then(pl.lit(0.9999)).otherwise("val_auroc")
    assert not sheet(folder).missing
    found = sheet(folder, trials=sweep().with_columns(better.alias("val_auroc")))
    assert found.missing == (
        "What was looked at is of other networks than the best of this sweep; `ttl attention` looks again."
    )
    assert not found.picture


def test_another_condition_that_this_sweep_would_look_at_is_another_figure(tmp_path: Path) -> None:
    pooled = sweep().with_columns(head=pl.lit("pooled"))
    better = pl.min_horizontal(pl.col("val_auroc") + 0.1, 0.9999)
    flat = pooled.with_columns(
        better.alias("val_auroc"), trial_id="f" + pl.col("trial_id"), head=pl.lit("flattened")
    )
    folder = leave(tmp_path / "films", trials=pooled)
    worse = flat.with_columns(val_auroc=pl.lit(0.5))
    assert not transferability(folder, trials=pl.concat([pooled, worse])).missing
    assert "lacks 6 of this sweep's 6" in transferability(folder, trials=pl.concat([pooled, flat])).missing


def test_a_sheet_of_patients_images_stays_out_of_the_page_and_its_notes_do_not(tmp_path: Path) -> None:
    found = sheet(leave(tmp_path / "films"), pictures=False)
    assert (found.missing, found.picture, found.notes) == ("not mailed", "", ("empty maps",))


def test_what_is_not_there_or_damaged_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    assert transferability(tmp_path).missing == "Not looked at yet: `ttl similarity` does it."
    assert sheet(tmp_path).missing == "Not looked at yet: `ttl attention` does it."
    folder = leave(tmp_path / "films")
    (folder / "similarity.json").write_text("{")
    assert "similarity.json is damaged" in transferability(folder).missing

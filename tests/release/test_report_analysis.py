"""What other commands have found is shown where it is of this sweep's networks, and of nobody's patients."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ttl.release.report import analysis

TRIALS = ["one", "two"]


def leave(folder: Path, *, trial: str = "one", revision: str = "r") -> Path:
    """Leave what both commands do, of one trial."""
    folder.mkdir(parents=True)
    about = {"dataset": "films", "revision": revision}
    backbone = {"backbone": "net", "finetuned": {"trial_id": trial}, "notes": ["few positions"]}
    (folder / "similarity.json").write_text(json.dumps({**about, "backbones": [backbone]}))
    (folder / "similarity.svg").write_text('<svg viewBox="0 0 640 450" xmlns="http://www.w3.org/2000/svg"/>')
    values = {
        **about,
        "strategies": {"ftl": {"trial_id": trial}},
        "notes": ["empty maps"],
        "alt": "Maps of 3",
    }
    (folder / "attention.json").write_text(json.dumps(values))
    Image.new("RGB", (300, 200)).save(folder / "attention.png")
    return folder


def transferability(folder: Path, **changes: Any) -> analysis.Looked:
    values = {"trials": TRIALS, "revision": "r", "name": "x", **changes}
    return analysis.similarity(folder, **values)


def sheet(folder: Path, **changes: Any) -> analysis.Looked:
    values = {"pictures": True, "private": "not mailed", "widest": 150, "trials": TRIALS, "revision": "r"}
    return analysis.attention(folder, **{**values, **changes})


def test_figures_of_this_sweep_are_shown_with_their_words(tmp_path: Path) -> None:
    leave(tmp_path / "films")
    found = transferability(tmp_path / "films")
    assert (found.missing, found.width, found.height, found.notes) == ("", 640, 450, ("net: few positions",))
    assert "net" in found.alt
    found = sheet(tmp_path / "films")
    assert (found.missing, found.width, found.height, found.alt) == ("", 150, 100, "Maps of 3")
    assert found.picture.startswith("data:image/webp")


@pytest.mark.parametrize("changes", [{"trials": ["two"]}, {"revision": "other"}])
def test_what_is_of_another_sweep_is_not_shown(tmp_path: Path, changes: dict[str, Any]) -> None:
    leave(tmp_path / "films")
    for found in (transferability(tmp_path / "films", **changes), sheet(tmp_path / "films", **changes)):
        assert "is of another sweep than this one" in found.missing
        assert not found.picture


def test_a_sheet_of_patients_images_stays_out_of_the_page_and_its_notes_do_not(tmp_path: Path) -> None:
    found = sheet(leave(tmp_path / "films"), pictures=False)
    assert (found.missing, found.picture, found.notes) == ("not mailed", "", ("empty maps",))


def test_what_is_not_there_or_damaged_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    assert transferability(tmp_path).missing == "Not looked at yet: `ttl similarity` does it."
    assert sheet(tmp_path).missing == "Not looked at yet: `ttl attention` does it."
    folder = leave(tmp_path / "films")
    (folder / "similarity.json").write_text("{")
    assert "similarity.json is damaged" in transferability(folder).missing

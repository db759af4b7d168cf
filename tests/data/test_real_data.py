"""The published datasets themselves."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ttl.data.prepare import prepare
from ttl.data.sources.class_folders import list_images
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError

pytestmark = pytest.mark.data

REORDERED = "md5:f8d3459b5cfd14df1a1c6f1ef00f1c00"
"""The official images and split of PneumoniaMNIST, its training rows in another order."""

PNEUMONIA = DatasetSpec(source="medmnist", options={"accept_checksum": REORDERED})


def test_pneumoniamnist_has_its_published_split_and_eight_leaks(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("TTL_DATA_MIRROR", str(real_data))
    data = prepare("pneumoniamnist", PNEUMONIA, tmp_path / "p")
    assert {s: len(data.indices(s)) for s in ("train", "val", "test")} == {
        "train": 4708,
        "val": 524,
        "test": 624,
    }
    assert data.info.counts["test"] == {"normal": 234, "pneumonia": 390}
    leaks = [note for note in data.info.notes if "occur" in note]
    assert leaks == ["8 images occur in both train and val of the given split, which is kept as it is."]
    with np.load(real_data / "pneumoniamnist.npz") as arrays:
        assert np.array_equal(data.read(data.indices("val"))[:, 0], arrays["val_images"])
    assert data.revision == "69c06e5dc84614b5"


def test_a_file_that_is_not_the_published_one_is_not_taken_silently(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("TTL_DATA_MIRROR", str(real_data))
    with pytest.raises(DataError, match="expected is md5:28209eda62fecd6e6a2d98b1501bb15f"):
        prepare("pneumoniamnist", DatasetSpec(source="medmnist"), tmp_path / "p")


@pytest.mark.parametrize("archived", [False, True])
def test_cxr_pneumonia_keeps_its_copies_together(real_data, tmp_path, archived):
    source = real_data / "cxr-pneumonia"
    if archived:
        with zipfile.ZipFile(tmp_path / "cxr.zip", "w") as archive:
            for file in sorted(source.rglob("*.*")):
                archive.write(file, file.relative_to(source))
        source = tmp_path / "cxr.zip"
    spec = DatasetSpec(source="folder", input=str(source), size=64, options={"images": "images"})
    data = prepare("cxr-pneumonia", spec, tmp_path / "c")
    assert len(data.samples) == 624
    assert data.samples["sha256"].n_unique() == 618
    assert "624 samples are 618 distinct images; the others are exact copies." in data.info.notes
    totals = np.sum([list(counts.values()) for counts in data.info.counts.values()], axis=0)
    assert totals.tolist() == [234, 390]
    assert all(copies["split"].n_unique() == 1 for _, copies in data.samples.group_by("sha256"))


def test_the_documented_pattern_finds_the_patient_of_every_malaria_cell(real_data):
    archive = real_data / "nih-malaria.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    entry = (
        (Path(__file__).parents[2] / "docs" / "datasets.md")
        .read_text(encoding="utf-8")
        .split("nih-malaria:")[1]
    )
    pattern = re.search(r"patient: (.*)", entry)[1]
    cells = list_images(archive, ".", ("Uninfected", "Parasitized"))
    found = [re.search(pattern, cell.image.split("/")[1]) for cell in cells]
    assert len(cells) == 27_558
    assert all(found)
    assert len({patient[0] for patient in found}) == 200
    # The pattern that suggests itself misses almost a quarter of them.
    assert sum(re.match(r"C\d+P\d+", cell.image.split("/")[1]) is None for cell in cells) == 6_429

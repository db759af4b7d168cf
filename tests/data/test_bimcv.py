"""BIMCV COVID-19 as published: 16 bits through the window or LUT beside the file, views by their names."""

import datetime
import json

import numpy as np
import pytest
from PIL import Image

from tests.data.imitations import bimcv, bimcv_film, noise
from ttl.data.prepare import prepare
from ttl.data.sources.stored_values import read_stored, read_tags
from ttl.data.sources.table import BadRowsError
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ParamsError

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "bimcv"
    bimcv(root)
    return root


def load(root, tmp_path, **options):
    spec = DatasetSpec(source="bimcv", input=str(root), size=12, options=options)
    return prepare("bimcv", spec, tmp_path / "packed")


def seen(path):
    return read_stored(path, read_tags(path.with_suffix(".json")), channels=1, size=(16, 16), fit="pad")[0]


def test_subjects_labels_and_days_are_read(source, tmp_path):
    data = load(source, tmp_path)
    assert data.info.classes == ("negative", "positive")
    assert len(data.samples) == 64
    for (subject,), films in data.samples.group_by("patient_id"):
        assert films["label"].to_list() == [int(subject.startswith("sub-S03"))] * 2
        assert films["split"].n_unique() == 1
    assert set(data.samples["acquired_at"]) == {datetime.date(2020, 3, 31)}
    assert data.samples["sample_id"].str.contains("_vp-ap_").all()
    assert data.info.notes[1].startswith("64 radiographs of other views, or whose name does not say the view")


def test_the_window_and_the_whole_range(tmp_path):
    path = bimcv_film(tmp_path, "a", 1, 1, pixels=RAMP)
    # Linear, PS3.3 C.11.2.1.2.1: black to 0, white from 4095.
    assert np.array_equal(seen(path), (RAMP / 4095 * 255.999).astype(np.uint8))
    path = bimcv_film(
        tmp_path,
        "a",
        1,
        2,
        pixels=RAMP,
        tags={"00280004": ["MONOCHROME2"], "00281050": [1000, 9], "00281051": [401, 9]},
    )
    expected = np.clip((RAMP - 999.5) / 400 + 0.5, 0, 1) * 255.999
    assert np.array_equal(seen(path), expected.astype(np.uint8))
    path = bimcv_film(tmp_path, "a", 1, 3, pixels=RAMP + 100, tags={"00280004": ["MONOCHROME2"]})
    assert np.array_equal(seen(path), (RAMP / 4080 * 255.999).astype(np.uint8))


def test_a_lut_comes_before_a_window_and_monochrome1_is_inverted(tmp_path):
    lut = {"00283002": {"Value": [4, 96, 8]}, "00283006": {"Value": [10, 100, 150, 255]}}
    tags = {"00280004": ["MONOCHROME1"], "00281050": [2048], "00281051": [4096], "00283010": [lut]}
    pixels = np.repeat(np.array([[0, 96, 97, 98], [99, 100, 4000, 50]], np.uint16), 4, axis=0).repeat(
        4, axis=1
    )
    path = bimcv_film(tmp_path, "a", 1, 1, pixels=np.vstack([pixels, pixels]), tags=tags)
    # Stored values up to the first mapped one take the first entry, from the last on the last.
    assert seen(path)[::4, ::4][:2].tolist() == [[245, 245, 155, 105], [0, 0, 0, 245]]


def test_rescaled_values_go_through_the_window(tmp_path):
    tags = {"00280004": ["MONOCHROME2"], "00281050": [0], "00281051": [2001]}
    path = bimcv_film(tmp_path, "a", 1, 1, pixels=RAMP, tags={**tags, "00281052": [-1000], "00281053": [0.5]})
    expected = np.clip((RAMP * 0.5 - 1000 + 0.5) / 2000 + 0.5, 0, 1) * 255.999
    assert np.array_equal(seen(path), expected.astype(np.uint8))


def test_eight_bits_are_taken_as_they_are(tmp_path):
    pixels = noise(3, 16, 16, channels=1)
    assert np.array_equal(seen(bimcv_film(tmp_path, "a", 1, 1, pixels=pixels)), pixels)


def test_bad_files_are_named(source, tmp_path):
    films = sorted((source / "covid19_posi").glob("sub-*/ses-*/mod-rx/*vp-ap*.png"))
    films[0].with_suffix(".json").unlink()
    films[1].with_suffix(".json").write_text("no json")
    films[2].with_suffix(".json").write_text("{}")
    films[3].write_bytes(films[3].read_bytes()[:60])
    tags = json.loads(films[4].with_suffix(".json").read_text())
    films[4].with_suffix(".json").write_text(json.dumps({**tags, "00080020": {"Value": ["31.3.2020"]}}))
    films[5].with_suffix(".json").write_text(json.dumps({**tags, "00281051": {"Value": [0]}}))
    with pytest.raises(BadRowsError, match="6 radiographs cannot be used") as caught:
        load(source, tmp_path)
    expected = (
        "the tags of the image are missing",
        "the tags of the image cannot be read",
        "its photometric interpretation is missing",
        "the image cannot be read",
        "its study date is '31.3.2020'",
        "its window or its VOI LUT cannot be used",
    )
    for problem, film, said in zip(caught.value.problems, films, expected, strict=False):
        assert problem.startswith(film.relative_to(source).parent.as_posix())
        assert said in problem


def test_films_without_tags_can_be_left_out(source, tmp_path):
    film = next((source / "covid19_neg").glob("sub-*/ses-*/mod-rx/*vp-ap*.png"))
    film.with_suffix(".json").unlink()
    data = load(source, tmp_path, untagged="leave out")
    assert len(data.samples) == 63
    assert "1 radiographs without their tags are left out." in data.info.notes


def test_what_is_missing_is_named(source, tmp_path):
    with pytest.raises(DataError, match=r"covid19_neg has no radiographs of the views pa \(64 of any\)"):
        load(source, tmp_path, views=["pa"])
    with pytest.raises(DataError, match="negatives is missing; unpack the dataset's archives there"):
        load(source, tmp_path, negative="negatives")
    with pytest.raises(ParamsError, match=r"options\.views is empty"):
        load(source, tmp_path, views=[])


def test_a_colour_copy_has_three_equal_channels(source, tmp_path):
    spec = DatasetSpec(source="bimcv", input=str(source), size=12, channels=3)
    data = prepare("bimcv", spec, tmp_path / "packed")
    pixels = data.read(np.array([0]))[0]
    assert np.array_equal(pixels[0], pixels[2])
    assert Image.fromarray(pixels[0]).size == (12, 12)

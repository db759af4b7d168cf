"""RadFusion as published: studies become volumes of one shape, windowed; the published split is kept."""

import numpy as np
import pytest

from tests.data.imitations import radfusion, write_table
from ttl.data.prepare import prepare
from ttl.data.sources import SOURCES, Request
from ttl.data.sources.radfusion import RadfusionOptions
from ttl.data.sources.resample import shares
from ttl.data.sources.table import BadRowsError
from ttl.data.spec import DatasetSpec
from ttl.errors import DataError, ParamsError

HEADER = ["", "idx", "label", "pe_type", "split"]


def contents(root, *, size=10, channels=None, **options):
    request = Request(
        name="pe",
        input=str(root),
        size=size,
        channels=channels,
        seed=0,
        cache=root,
        options=RadfusionOptions(**{"depth": 4, **options}),
    )
    return SOURCES["radfusion"].open(request)


def test_studies_labels_and_the_published_split_are_read(tmp_path):
    rows = radfusion(tmp_path)
    found = contents(tmp_path)
    assert (found.task, found.classes, found.shape) == ("binary", ("no embolism", "embolism"), (1, 4, 10, 10))
    assert found.given_split
    samples = list(found.samples)
    assert [s.sample_id for s in samples] == [str(row[1]) for row in rows]
    assert [s.label for s in samples] == [row[2] for row in rows]
    assert [s.split for s in samples] == [row[4] for row in rows]
    assert all(s.patient_id is None for s in samples)
    assert all(s.pixels.dtype == np.uint8 and s.pixels.shape == (1, 4, 10, 10) for s in samples)
    assert found.notes[0].startswith("The table names studies, not patients")
    assert found.notes[1].startswith("Values from -100 to 900 Hounsfield units became 0 to 255")


def test_the_window_is_penets(tmp_path):
    radfusion(tmp_path, studies=2)
    values = np.full((4, 10, 10), -1000, np.int16)
    values[1], values[2], values[3] = -100, 400, 900
    np.save(tmp_path / "0" / "0.npy", values)
    pixels = next(iter(contents(tmp_path).samples)).pixels
    assert pixels[0, :, 0, 0].tolist() == [0, 0, 127, 255]
    assert np.array_equal(pixels[0, :, 3, 7], pixels[0, :, 0, 0])
    soft = next(iter(contents(tmp_path, centre=40, width=400).samples)).pixels
    assert soft[0, :, 0, 0].tolist() == [0, 38, 255, 255]


def test_volumes_are_averaged_along_every_axis(tmp_path):
    radfusion(tmp_path, studies=2)
    values = np.random.default_rng(0).integers(-1024, 900, (12, 20, 30)).astype(np.int16)
    np.save(tmp_path / "0" / "0.npy", values)
    pixels = next(iter(contents(tmp_path).samples)).pixels[0]
    means = values.reshape(4, 3, 10, 2, 10, 3).mean(axis=(1, 3, 5))
    expected = np.clip((means + 100) / 1000, 0, 1) * 255.999
    assert np.abs(pixels - expected.astype(np.uint8)).max() <= 1


def test_shares_are_of_what_an_output_covers():
    assert shares(3, 2).tolist() == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))
    assert shares(2, 4).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert np.array_equal(shares(5, 5), np.eye(5))


def test_values_with_an_offset_are_refused_until_it_is_given(tmp_path):
    radfusion(tmp_path, studies=2)
    for study in range(2):
        values = np.load(tmp_path / str(study) / f"{study}.npy")
        np.save(tmp_path / str(study) / f"{study}.npy", values + 1024)
    with pytest.raises(BadRowsError, match=r"0\.npy: its least value is .*set options\.intercept"):
        list(contents(tmp_path).samples)
    given = [s.pixels for s in contents(tmp_path, intercept=-1024).samples]
    radfusion(tmp_path, studies=2)
    assert all(np.array_equal(a, b.pixels) for a, b in zip(given, contents(tmp_path).samples, strict=True))


def test_bad_rows_are_named_by_their_lines(tmp_path):
    rows = radfusion(tmp_path)
    (tmp_path / "0" / "0.npy").unlink()
    (tmp_path / "1" / "1.npy").write_bytes(b"no array")
    np.save(tmp_path / "2" / "2.npy", np.zeros((4, 4), np.int16))
    np.save(tmp_path / "3" / "3.npy", np.array([{}], dtype=object), allow_pickle=True)
    rows[4][2], rows[5][4] = "", "holdout"
    rows.append([18, 6, 1, "", "train"])
    write_table(tmp_path / "Labels.csv", HEADER, rows)
    with pytest.raises(BadRowsError) as caught:
        list(contents(tmp_path).samples)
    expected = (
        "line 2: study 0 has no 0.npy in the folders 0 to 7",
        "line 3: 1.npy: the array cannot be read",
        "line 4: 2.npy is int16 (4, 4); expected are numbers, (slices, height, width)",
        "line 5: 3.npy: the array cannot be read",
        "line 6: study 4 has label ''; it must be 0 or 1",
        "line 7: study 5 has split 'holdout'; it must be one of train, val, test",
        "line 20: 6 is also on line 8, with another",
    )
    assert len(caught.value.problems) == len(expected)
    for problem, said in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(said)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(DataError, match=r"Labels\.csv is missing"):
        contents(tmp_path)
    write_table(tmp_path / "Labels.csv", ["idx", "label"], [[1, 1]])
    with pytest.raises(DataError, match=r"Labels\.csv has no column split"):
        contents(tmp_path)
    radfusion(tmp_path)
    np.save(tmp_path / "5" / "0.npy", np.zeros((2, 4, 4), np.int16))
    with pytest.raises(DataError, match=r"0/0\.npy and .*5/0\.npy are two arrays of one study"):
        list(contents(tmp_path).samples)
    with pytest.raises(ParamsError, match="channels is 3; a CT volume has 1"):
        contents(tmp_path, channels=3)
    with pytest.raises(ParamsError, match=r"options\.width is 0"):
        contents(tmp_path, width=0)


def test_a_packed_study_is_its_volume(tmp_path):
    rows = radfusion(tmp_path / "pe")
    spec = DatasetSpec(source="radfusion", input=str(tmp_path / "pe"), size=10, options={"depth": 4})
    data = prepare("pe", spec, tmp_path / "packed")
    assert data.info.shape == (1, 4, 10, 10)
    assert data.info.counts["test"] == {"no embolism": 3, "embolism": 3}
    assert data.samples["split"].to_list() == [row[4] for row in rows]
    samples = list(contents(tmp_path / "pe").samples)
    assert np.array_equal(data.read(np.array([7]))[0], samples[7].pixels)

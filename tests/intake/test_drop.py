"""Drops: found, whole or half-copied, and their tables."""

import datetime
import hashlib

import pytest

from tests.intake.conftest import write_csv, write_drop
from ttl.errors import DataError
from ttl.intake import drop as module
from ttl.intake.drop import Label, open_drop

FILES = {"images/a.dcm": b"aaaa", "b.dcm": b"bb"}
LABELS = [("images/a.dcm", "normal"), ("b.dcm", "finding")]


@pytest.fixture
def folder(tmp_path):
    return write_drop(tmp_path / "incoming" / "north" / "2026-03", FILES, LABELS)


def test_a_drop_is_what_its_tables_say(folder):
    drop = open_drop(f"{folder}/")
    assert (drop.site, drop.name) == ("north", "2026-03")
    assert [(one.path, one.size) for one in drop.manifest] == [("images/a.dcm", 4), ("b.dcm", 2)]
    assert drop.digest == hashlib.sha256((folder / "MANIFEST.csv").read_bytes()).hexdigest()
    assert drop.labels["b.dcm"] == Label(image="b.dcm", label="finding", patient_id=None, acquired_at=None)
    assert {path: drop.sizes[path] for path in FILES} == {"images/a.dcm": 4, "b.dcm": 2}
    assert drop.sizes.keys() == {*FILES, "labels.csv", "MANIFEST.csv"}
    assert drop.lacking() == []


def test_patients_and_days_are_read(tmp_path):
    columns = ("image", "label", "patient_id", "acquired_at")
    folder = write_drop(
        tmp_path / "s" / "d", {"a": b"a"}, [("./a", "normal", "p1", "2026-02-03")], columns=columns
    )
    label = open_drop(str(folder)).labels["a"]
    assert (label.patient_id, label.acquired_at) == ("p1", datetime.date(2026, 2, 3))


def test_what_is_half_copied_is_lacking(folder):
    (folder / "images" / "a.dcm").write_bytes(b"aa")
    (folder / "b.dcm").unlink()
    assert open_drop(str(folder)).lacking() == ["images/a.dcm", "b.dcm"]
    (folder / "images" / "a.dcm").write_bytes(b"aaaaaa")
    assert open_drop(str(folder)).lacking() == ["b.dcm"]


SUM = "0" * 64


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("../DOE.dcm", SUM, 1)], "line 2: has no path within the drop"),
        ([("/etc/DOE", SUM, 1)], "line 2: has no path within the drop"),
        ([("a\\DOE.dcm", SUM, 1)], "line 2: has no path within the drop"),
        ([("", SUM, 1)], "line 2: has no path within the drop"),
        ([("DOE", SUM, 1), ("./DOE", SUM, 1)], "line 3: lists a file again"),
        ([("MANIFEST.csv", SUM, 1)], "lists the manifest itself"),
        ([("DOE", "12ab", 1)], "sha256 must be 64 hexadecimal digits"),
        ([("DOE", SUM, "-1")], "size must be the file's bytes"),
        ([("DOE", SUM, "9" * 30)], "size must be the file's bytes"),
        ([("DOE", SUM)], "line 2: has 2 cells, the header has 3"),
        ([], "lists no files"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_without_naming_anybody(folder, rows, message):
    write_csv(folder / "MANIFEST.csv", ("path", "sha256", "size"), rows)
    with pytest.raises(DataError, match=message) as caught:
        open_drop(str(folder)).lacking()
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (("image", "label"), [("DOE", "normal"), ("DOE", "finding")], "line 3: differs from an earlier row"),
        (("image", "label"), [("../DOE", "normal")], "line 2: has no path within the drop"),
        (("image", "label", "acquired_at"), [("DOE", "normal", "DOE")], "line 2: write acquired_at as"),
        (("DOE", "label"), [("a", "normal")], "must have the column image once"),
        (("image", "label", "label"), [("DOE", "a", "b")], "must have the column label once"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_without_naming_anybody(folder, columns, rows, message):
    write_csv(folder / "labels.csv", columns, rows)
    with pytest.raises(DataError, match=message) as caught:
        open_drop(str(folder)).lacking()
    assert "DOE" not in str(caught.value)


def test_a_label_said_twice_alike_is_one(folder):
    write_csv(folder / "labels.csv", ("image", "label"), [*LABELS, LABELS[0]])
    assert len(open_drop(str(folder)).labels) == 2


def test_labels_that_are_not_those_of_the_manifest_are_refused(tmp_path):
    folder = write_drop(tmp_path / "s" / "d", {**FILES, "labels.csv": b"image,label\n"}, LABELS)
    with pytest.raises(DataError, match=r"labels.csv is not the file that MANIFEST.csv lists"):
        open_drop(str(folder)).lacking()


def test_tables_that_are_missing_not_utf8_or_huge_are_refused(folder, monkeypatch):
    (folder / "labels.csv").write_bytes(b"image,label\nM\xfcller,normal\n")
    with pytest.raises(DataError, match="not UTF-8 at byte 13"):
        open_drop(str(folder)).lacking()
    (folder / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"has no labels.csv"):
        open_drop(str(folder)).lacking()
    monkeypatch.setattr(module, "TABLE_BYTES", 20)
    with pytest.raises(DataError, match="more than the 20 bytes accepted"):
        open_drop(str(folder))
    (folder / "MANIFEST.csv").unlink()
    with pytest.raises(DataError, match=r"has no MANIFEST.csv; write it when"):
        open_drop(str(folder))


@pytest.mark.parametrize("place", ["Müller/one", "north/Hans Müller", "north/_one", "north/" + 65 * "a"])
def test_a_drop_whose_name_would_be_left_is_refused_to_its_sender_too(tmp_path, place):
    write_drop(tmp_path / place, FILES, LABELS)
    with pytest.raises(DataError, match="name has other characters than letters"):
        open_drop(str(tmp_path / place))

"""Checking whole drops: one verdict a file, in order, whatever the files do."""

import io
import os
import traceback
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture
from PIL import ImageDraw

from tests.intake.conftest import PSEUDONYMS, SPEC, as_bytes, dataset, film, write_csv, write_drop
from ttl.data.dataset import pixel_hash
from ttl.errors import DataError, ServiceError
from ttl.intake import check, inspect
from ttl.intake.check import check_drop, summary
from ttl.intake.drop import open_drop
from ttl.intake.similar import Known, phash
from ttl.intake.verdict import Reason

STRICT = replace(SPEC, max_bytes=100_000)


def checked(folder, *, spec=SPEC, known=None, pseudonyms=PSEUDONYMS, workers=0):
    known = known or Known.of(None)
    return list(check_drop(open_drop(str(folder)), spec, known, pseudonyms, workers=workers))


def reasons(found):
    return {one.verdict.path: one.verdict.reason for one in found}


def slice_of(seed, patient=None, **changes):
    return as_bytes(dataset(film(seed), patient=patient or f"P{seed:04d}", **changes))


def png(seed, side=80):
    file = io.BytesIO()
    Picture.fromarray((film(seed, side) // 16).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path):
    """A drop with one file for each reason that a file can have by itself."""
    good = slice_of(1)
    files = {
        "z-good.dcm": good,
        "missing.dcm": slice_of(2),
        "short.dcm": slice_of(3),
        "changed.dcm": slice_of(4),
        "huge.dcm": slice_of(5) + bytes(200_000),
        "nonsense.dcm": b"not an image",
        "report.dcm": slice_of(6, Modality="SR"),
        "hsv.dcm": slice_of(7, PhotometricInterpretation="HSV"),
        "phi.dcm": slice_of(8, PatientBirthDate="19500201"),
        "burned.dcm": slice_of(9, BurnedInAnnotation="YES"),
        "nobody.dcm": slice_of(10, PatientID="", PatientName=""),
        "unlabelled.dcm": slice_of(11),
        "empty-label.dcm": slice_of(12),
        "odd-label.dcm": slice_of(13),
        "again.dcm": good,
        "copy.dcm": as_bytes(
            dataset(film(1) + np.uint16(8), patient="P9999", WindowCenter="2040", WindowWidth="4096")
        ),
        "empty.dcm": b"",
    }
    labels = [
        (name, "normal")
        for name in files
        if name not in ("unlabelled.dcm", "empty-label.dcm", "odd-label.dcm")
    ]
    labels += [("empty-label.dcm", ""), ("odd-label.dcm", "unsure"), ("nowhere.dcm", "normal")]
    folder = write_drop(tmp_path / "north" / "mixed", files, labels)
    (folder / "missing.dcm").unlink()
    (folder / "short.dcm").write_bytes(files["short.dcm"] + b"\0")
    (folder / "changed.dcm").write_bytes(files["changed.dcm"][:-1] + b"\x07")
    (folder / "sub").mkdir()
    (folder / "sub" / "extra.dcm").write_bytes(slice_of(14))
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


EXPECTED = {
    "z-good.dcm": None,
    "missing.dcm": Reason.MISSING,
    "short.dcm": Reason.SIZE,
    "changed.dcm": Reason.CHECKSUM,
    "huge.dcm": Reason.TOO_LARGE,
    "nonsense.dcm": Reason.UNREADABLE,
    "report.dcm": Reason.MODALITY,
    "hsv.dcm": Reason.PHOTOMETRIC,
    "phi.dcm": Reason.NOT_DEIDENTIFIED,
    "burned.dcm": Reason.BURNED_IN,
    "nobody.dcm": Reason.NO_PATIENT,
    "unlabelled.dcm": Reason.NO_LABEL,
    "empty-label.dcm": Reason.NO_LABEL,
    "odd-label.dcm": Reason.UNKNOWN_LABEL,
    "again.dcm": Reason.DUPLICATE,
    "copy.dcm": Reason.NEAR_DUPLICATE,
    "empty.dcm": Reason.UNREADABLE,
    ".DS_Store": Reason.UNLISTED,
    "sub/extra.dcm": Reason.UNLISTED,
    "nowhere.dcm": Reason.MISSING,
}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_file_gets_its_verdict_in_the_manifests_order(mixed, workers):
    found = checked(mixed, spec=STRICT, workers=workers)
    assert list(reasons(found).items()) == list(EXPECTED.items())
    assert [one.verdict.path for one in found if one.image is not None] == ["z-good.dcm"]
    counts = summary(one.verdict for one in found)
    assert counts["accepted"] == 1
    assert sum(counts.values()) == len(EXPECTED)
    assert counts["missing"] == 2


def test_an_accepted_image_names_nobody(mixed):
    (image,) = [one.image for one in checked(mixed, spec=STRICT) if one.image is not None]
    assert image.patient_id == PSEUDONYMS.of_patient("P0001", "north")
    assert image.sample_id != image.patient_id
    assert "P0001" not in repr(image)
    assert image.pixels.shape == SPEC.shape
    assert (image.sha256, image.phash) == (pixel_hash(image.pixels), phash(image.pixels))
    assert (image.label, str(image.acquired_at)) == (0, "2024-03-05")


def test_details_hold_no_value_of_a_header(mixed):
    assert not [
        one
        for one in checked(mixed, spec=STRICT)
        if any(text in one.verdict.detail for text in ("1950", "P0"))
    ]


def test_a_sender_without_a_key_gets_the_same_verdicts_and_no_ids(mixed):
    with_key, without = checked(mixed, spec=STRICT), checked(mixed, spec=STRICT, pseudonyms=None)
    assert [one.verdict for one in with_key] == [one.verdict for one in without]
    (image,) = [one.image for one in without if one.image is not None]
    assert (image.sample_id, image.patient_id) == ("", "")


@pytest.fixture
def two_sites(tmp_path):
    """A file at one site, and the same and another one of the same `PatientID` at another."""
    one = write_drop(tmp_path / "north" / "one", {"a": slice_of(1)}, [("a", "normal")])
    two = write_drop(
        tmp_path / "south" / "two",
        {"a": slice_of(1), "b": slice_of(2, patient="P0001")},
        [("a", "normal"), ("b", "normal")],
    )
    return one, two


@pytest.mark.parametrize(("patient_ids", "same"), [("of-site", False), ("shared", True)])
def test_the_same_file_elsewhere_is_a_duplicate_and_ids_are_of_a_site_or_shared(two_sites, patient_ids, same):
    known, spec = Known.of(None), replace(SPEC, patient_ids=patient_ids)
    (first,), (again, second) = (checked(folder, known=known, spec=spec) for folder in two_sites)
    assert again.verdict.reason == Reason.DUPLICATE
    assert (first.image.patient_id == second.image.patient_id) is same
    assert first.image.sample_id != second.image.sample_id


def test_a_patient_of_one_sites_frozen_test_set_is_nobody_at_another(two_sites):
    for patient_ids, reason in (("of-site", None), ("shared", Reason.FROZEN_PATIENT)):
        known, spec = Known.of(None), replace(SPEC, patient_ids=patient_ids)
        (first,) = checked(two_sites[0], known=known, spec=spec)
        known.splits[first.image.patient_id] = "test"
        assert checked(two_sites[1], known=known, spec=spec)[1].verdict.reason == reason


def test_a_dummy_is_no_patient(tmp_path):
    names = {"a": "ANONYMOUS", "b": "ANONYMOUS", "c": "unknown", "d": "P4"}
    files = {name: slice_of(number, one) for number, (name, one) in enumerate(names.items())}
    rows = [("a", "normal", "P1"), ("b", "normal", ""), ("c", "normal", "n/a"), ("d", "normal", "Removed")]
    found = checked(write_drop(tmp_path / "s" / "d", files, rows, columns=("image", "label", "patient_id")))
    assert reasons(found) == {"a": None, "b": Reason.NO_PATIENT, "c": Reason.NO_PATIENT, "d": None}
    assert found[0].image.patient_id == PSEUDONYMS.of_patient("P1", "s")
    assert found[3].image.patient_id == PSEUDONYMS.of_patient("P4", "s")


def test_labels_that_differ_from_the_manifest_are_the_whole_drops_fault(mixed):
    manifest = [(one.path, one.sha256, one.size) for one in open_drop(str(mixed)).manifest]
    write_csv(mixed / "MANIFEST.csv", ("path", "sha256", "size"), [*manifest, ("labels.csv", "0" * 64, 1)])
    with pytest.raises(DataError, match=r"labels.csv is not the file"):
        checked(mixed)


def test_plain_images_need_a_patient_in_the_table(tmp_path):
    files = {"a.png": png(1), "b.png": png(2), "c.png": png(3)}
    rows = [
        ("a.png", "finding", "p1", "2026-01-02"),
        ("b.png", "normal", "", ""),
        ("c.png", "normal", "p2", ""),
    ]
    columns = ("image", "label", "patient_id", "acquired_at")
    found = checked(write_drop(tmp_path / "s" / "d", files, rows, columns=columns))
    assert reasons(found) == {"a.png": None, "b.png": Reason.NO_PATIENT, "c.png": None}
    assert (found[0].image.label, str(found[0].image.acquired_at)) == (1, "2026-01-02")
    assert found[0].image.patient_id == PSEUDONYMS.of_patient("p1", "s")


def test_plain_images_are_limited(tmp_path):
    deep, moving, other = io.BytesIO(), io.BytesIO(), b"P5 64 64 255\n" + bytes(4096)
    Picture.fromarray(film(1)).save(deep, "PNG")
    frames = [Picture.fromarray((film(n) // 16).astype(np.uint8)) for n in range(2)]
    frames[0].save(moving, "TIFF", save_all=True, append_images=frames[1:])
    files = {
        "deep.png": deep.getvalue(),
        "two.tif": moving.getvalue(),
        "a.ppm": other,
        "big.png": png(1, 200),
    }
    rows = [(name, "normal", "p") for name in files]
    folder = write_drop(tmp_path / "s" / "d", files, rows, columns=("image", "label", "patient_id"))
    assert reasons(checked(folder, spec=replace(SPEC, max_pixels=10_000))) == {
        "deep.png": Reason.PHOTOMETRIC,
        "two.tif": Reason.UNREADABLE,
        "a.ppm": Reason.UNREADABLE,
        "big.png": Reason.TOO_LARGE,
    }


def test_header_and_table_must_agree_on_the_patient(tmp_path):
    files = {"a": slice_of(1), "b": slice_of(2), "c": slice_of(3, PatientID="", PatientName="")}
    rows = [("a", "normal", "P0001"), ("b", "normal", "P0001"), ("c", "normal", "P0003")]
    found = checked(write_drop(tmp_path / "s" / "d", files, rows, columns=("image", "label", "patient_id")))
    assert reasons(found) == {"a": None, "b": Reason.NO_PATIENT, "c": None}


def test_colour_and_grey_come_in_the_datasets_channels(tmp_path):
    colour = as_bytes(
        dataset(np.repeat((film(2) // 16).astype(np.uint8)[:, :, None], 3, axis=2), patient="P2")
    )
    folder = write_drop(
        tmp_path / "s" / "d", {"a": slice_of(1), "b": colour}, [("a", "normal"), ("b", "normal")]
    )
    for channels in (1, 3):
        found = checked(folder, spec=replace(SPEC, channels=channels))
        assert {one.image.pixels.shape for one in found} == {(channels, 64, 64)}


def test_writing_in_the_pixels_is_refused(tmp_path):
    values = np.zeros((256, 256), dtype=np.uint8)
    picture = Picture.fromarray(values)
    ImageDraw.Draw(picture).text((10, 10), "DOE JANE 1950-02-01\nGENERAL HOSPITAL", fill=255, font_size=16)
    data = as_bytes(dataset(np.asarray(picture)))
    (found,) = checked(write_drop(tmp_path / "s" / "d", {"a": data}, [("a", "normal")]))
    assert found.verdict.reason == Reason.BURNED_IN


def end_at_4711(self, data, listed, label):
    """Stand in for a decoder that crashes at a file."""
    if b"4711" in data:
        os._exit(1)
    return inspect._refused(listed.path, Reason.NO_LABEL, "")


def start_with_a_crash(inspector, parent):
    inspect.Inspector.inspect = end_at_4711
    inspect.start(inspector, parent)


def test_a_file_that_ends_its_process_is_refused_and_the_others_are_not_lost(tmp_path, monkeypatch):
    names = [f"{number:02d}" for number in range(5)]
    files = {name: b"4711" if name == "03" else name.encode() for name in names}
    folder = write_drop(tmp_path / "s" / "d", files, [(name, "normal") for name in names])
    monkeypatch.setattr(check, "start", start_with_a_crash)
    monkeypatch.setattr(check, "CHUNK", 2)
    found = checked(folder, workers=2)
    assert [one.verdict.path for one in found] == names
    bad = {one.verdict.path: one.verdict.detail for one in found if one.verdict.reason == Reason.UNREADABLE}
    assert bad == {"03": "the process that read it ended at it, or was ended after 300 s"}


def test_a_file_that_hangs_is_refused_and_the_others_are_not_lost(tmp_path):
    files = {name: name.encode() for name in ("a", "hangs", "z")}
    folder = write_drop(tmp_path / "s" / "d", files, [(name, "normal") for name in files])
    drop = open_drop(str(folder))
    assert drop.sizes.keys() >= files.keys()
    # A pipe into which nobody writes: whoever opens it waits for ever, in the kernel.
    (folder / "hangs").unlink()
    os.mkfifo(folder / "hangs")
    run = check_drop(drop, replace(SPEC, seconds=3), Known.of(None), PSEUDONYMS, workers=1)
    details = {one.verdict.path: one.verdict.detail for one in run}
    assert details.keys() == files.keys()
    assert [name for name, detail in details.items() if "was ended after 3 s" in detail] == ["hangs"]


def test_only_so_many_files_are_read_ahead(tmp_path, monkeypatch):
    names = [f"{number:03d}" for number in range(300)]
    folder = write_drop(tmp_path / "s" / "d", dict.fromkeys(names, b""), [(n, "normal") for n in names])
    sent = []
    submit = check._submit
    monkeypatch.setattr(check, "_submit", lambda pool, chunk: sent.append(len(chunk)) or submit(pool, chunk))
    run = check_drop(open_drop(str(folder)), SPEC, Known.of(None), PSEUDONYMS, workers=2)
    next(run)
    assert sum(sent) == 2 * check.AHEAD * check.CHUNK
    assert len([*run]) == 299


def test_a_file_that_changes_while_it_is_read_is_not_read_further(tmp_path):
    folder = write_drop(tmp_path / "s" / "d", {"a": slice_of(1)}, [("a", "normal")])
    drop = open_drop(str(folder))
    assert drop.sizes["a"] == drop.manifest[0].size
    with (folder / "a").open("ab") as file:
        file.write(bytes(1_000_000))
    (found,) = check_drop(drop, SPEC, Known.of(None), PSEUDONYMS, workers=0)
    assert found.verdict.reason == Reason.SIZE
    assert len(drop.bucket.read_start("a", 10)) == 10


def test_pydicom_files_with_a_name_stay_unnamed(tmp_path, capfd, caplog):
    data = slice_of(1, patient="Doe^Jane")
    folder = write_drop(tmp_path / "s" / "d", {"a": data}, [("a", "normal")])
    (found,) = checked(folder)
    assert found.verdict.reason == Reason.NOT_DEIDENTIFIED
    assert "Doe" not in "".join(capfd.readouterr()) + caplog.text + found.verdict.detail
    assert pydicom.dcmread(io.BytesIO(data)).PatientName == "Doe^Jane"


def test_a_file_that_cannot_be_read_is_not_named(tmp_path, caplog):
    files = {"films/SHUT^HANS.dcm": slice_of(1)}
    folder = write_drop(tmp_path / "s" / "d", files, [(name, "normal") for name in files])
    drop = open_drop(f"refusing://{folder}")
    with pytest.raises(ServiceError, match=r"reading what lies there: PermissionError") as caught:
        list(check_drop(drop, SPEC, Known.of(None), PSEUDONYMS, workers=0))
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert str(folder) in told
    assert "SHUT" not in told
    assert "films" not in told

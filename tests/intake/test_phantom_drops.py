"""The simulated hospital: real DICOM that gives back the film, whole drops, and faults as named."""

import csv
import datetime
import hashlib

import numpy as np
import pydicom
import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as profile
from pydicom.pixels import apply_modality_lut

from ttl.bucket import Bucket
from ttl.data.sources.phantom import OTHER_SCANNER, SCANNERS, draw_anatomy, draw_film
from ttl.errors import DataError, ParamsError
from ttl.intake.check import check_drop
from ttl.intake.drop import Drop
from ttl.intake.phantom import FAULTS, PLANTED, expected, planted, write_drop
from ttl.intake.phantom_film import MACHINES, OTHER_MACHINE, Clinic, encode, machine_of
from ttl.intake.similar import Known
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Reason

DAY = datetime.date(2026, 3, 1)
IN_A_FILE = [fault for fault in FAULTS if fault not in ("no-manifest", "leak")]


def drop(incoming, name="first", *, site="s0", patients=12, **options):
    return write_drop(incoming, site=site, drop=name, patients=patients, date=DAY, **options)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def film(path):
    """Read a file as PS3.3 says: modality LUT, linear window to 0–255, and MONOCHROME1 turned over."""
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(dataset.pixel_array, dataset)
    low = float(dataset.WindowCenter) - 0.5 - (float(dataset.WindowWidth) - 1) / 2
    grey = np.clip((values - low) / (float(dataset.WindowWidth) - 1), 0, 1) * 255
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A drop with every fault that a file can have."""
    return drop(tmp_path_factory.mktemp("incoming"), patients=20, faults=IN_A_FILE)


def of(folder, fault):
    return [folder / path for path, name in planted(folder).items() if name == fault]


@pytest.mark.parametrize("machine", [*MACHINES, OTHER_MACHINE], ids=lambda one: one.model)
def test_windowed_pixels_are_the_film(machine, tmp_path):
    clinic = Clinic(site="s0", drop="d", date=DAY, seed=0, size=48, strength=1.0, machine=machine)
    one = clinic.draw("PAT-s0-1", 0, ill=True)
    (tmp_path / "one.dcm").write_bytes(encode(one))
    assert np.allclose(film(tmp_path / "one.dcm"), one.pixels, atol=1e-9)
    dataset = pydicom.dcmread(tmp_path / "one.dcm")
    assert dataset.PhotometricInterpretation == ("MONOCHROME1" if machine.inverted else "MONOCHROME2")
    assert (dataset.BitsAllocated, dataset.Modality) == (16, machine.modality)
    assert dataset.pixel_array.max() > 255


def test_a_drop_is_whole_and_its_digests_are_right(tmp_path):
    folder = drop(tmp_path)
    assert folder == tmp_path / "s0" / "first"
    rows = table(folder / "MANIFEST.csv")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {row["path"] for row in rows} | {"MANIFEST.csv"}
    for row in rows:
        content = (folder / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert int(row["size"]) == len(content)
    labels = table(folder / "labels.csv")
    assert [row["image"] for row in labels] == [row["path"] for row in rows[:-1]]
    assert {row["label"] for row in labels} == {"normal", "finding"}
    assert all(0 < (DAY - datetime.date.fromisoformat(row["acquired_at"])).days < 28 for row in labels)
    patients = [pydicom.dcmread(folder / row["image"]).PatientID for row in labels]
    assert len(set(patients)) == 12
    assert {patients.count(one) for one in patients} == {1, 2, 3}
    assert planted(folder) == {}


@pytest.mark.parametrize("site", ["s0", "s1", "s2"])
def test_the_files_hold_to_the_profile(tmp_path, site):
    folder = drop(tmp_path, site=site, patients=2)
    for path in folder.glob("films/*"):
        dataset = pydicom.dcmread(path)
        for element in dataset.iterall():
            tag = (element.tag.group, element.tag.element)
            assert not element.tag.is_private
            assert tag not in profile.X_TAGS
            if tag in profile.Z_TAGS or (tag in profile.X_Z_TAGS):
                assert not element.value
            if tag in profile.D_TAGS or tag in profile.Z_D_TAGS:
                assert element.keyword == "PatientID"
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert dataset.BurnedInAnnotation == "NO"
        assert dataset.SyntheticData == "YES"
        assert dataset.PatientID.startswith(f"PAT-{site}-")
        assert dataset.PatientName == ""


def test_all_of_a_drop_follows_from_its_name_day_and_seed(tmp_path):
    made = contents(drop(tmp_path / "a", faults=IN_A_FILE[:5]))
    assert contents(drop(tmp_path / "b", faults=IN_A_FILE[:5])) == made
    for change in ({"seed": 1}, {"name": "second"}, {"site": "s3"}):
        other = contents(drop(tmp_path / "c", **change))
        assert not set(other.values()) & set(made.values())
    ours, theirs = (
        {pydicom.dcmread(path).PatientID for path in (tmp_path / x / "s0" / name).glob("films/*[0-9].dcm")}
        for x, name in (("a", "first"), ("c", "second"))
    )
    assert not ours & theirs


def test_a_patient_who_comes_again_has_the_same_anatomy():
    means = []
    for name in ("one", "two"):
        clinic = Clinic(
            site="s0", drop=name, date=DAY, seed=0, size=64, strength=1.0, machine=machine_of("s0")
        )
        for who in "abcd":
            films = [clinic.draw(who, number, ill=False).pixels for number in range(20)]
            means.append(np.mean(films, axis=0).ravel())
            assert not np.array_equal(films[0], films[1])
    alike = np.corrcoef(means)[:4, 4:]
    assert alike.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert alike.diagonal().min() > 0.97


def test_a_sites_machine_goes_by_its_number():
    assert [machine_of(site) for site in ("s0", "site-1", "s32")] == list(MACHINES)
    assert machine_of("north") in MACHINES


def test_the_other_scanner_changes_the_films_and_no_label(tmp_path):
    plain, other = drop(tmp_path / "a"), drop(tmp_path / "b", shift="scanner")
    assert (plain / "labels.csv").read_bytes() == (other / "labels.csv").read_bytes()
    pairs = [(film(path), film(other / "films" / path.name)) for path in plain.glob("films/*")]
    contrast = np.mean([[one.std(), two.std()] for one, two in pairs], axis=0)
    assert contrast[1] < 0.85 * contrast[0]
    first = pydicom.dcmread(next(other.glob("films/*")))
    assert (first.PhotometricInterpretation, first.Modality) == ("MONOCHROME1", "DX")


def test_a_film_without_a_scanner_is_its_sites():
    def made(**options):
        rng = np.random.default_rng(0)
        return draw_film(draw_anatomy(rng), 1, 1.0, 64, rng, **options)

    assert np.array_equal(made(), made(scanner=SCANNERS[1]))
    assert not np.array_equal(made(), made(scanner=OTHER_SCANNER))


def test_intake_refuses_each_faults_files_for_its_reason_and_no_others(faulty):
    spec = IntakeSpec(incoming="incoming", classes=("normal", "finding"), size=64)
    bucket = Bucket(str(faulty), patience=1)
    verdicts = check_drop(Drop(site="s0", name="first", bucket=bucket), spec, Known(), None, workers=0)
    reasons = {one.verdict.path: one.verdict.reason for one in verdicts if not one.verdict.accepted}
    assert reasons == {path: expected(fault) for path, fault in planted(faulty).items()}
    assert set(planted(faulty).values()) == set(IN_A_FILE)


def test_every_fault_has_its_reason():
    assert {expected(fault) for fault in FAULTS} == {
        None, *set(Reason) - {Reason.PHOTOMETRIC, Reason.NO_PATIENT}
    }  # fmt: skip
    assert [fault for fault in FAULTS if expected(fault) is None] == ["no-manifest"]


def test_phi_is_planted_openly_and_deep(faulty):
    openly, deep = sorted(
        map(pydicom.dcmread, of(faulty, "phi")), key=lambda one: str(one.PatientName), reverse=True
    )
    assert (openly.PatientName, openly.OtherPatientIDs) == (PLANTED[0], PLANTED[1])
    assert any(element.tag.is_private for element in openly)
    assert deep.PatientName == ""
    assert not any((e.tag.group, e.tag.element) in profile.X_TAGS for e in deep)
    assert deep.AnatomicRegionSequence[0].PatientComments == PLANTED[-1]
    both = b"".join(path.read_bytes() for path in of(faulty, "phi"))
    assert all(value.encode() in both for value in PLANTED)
    others = [path for path in faulty.rglob("*.*") if path not in of(faulty, "phi")]
    assert not any(value.encode() in path.read_bytes() for path in others for value in PLANTED)


def test_copies_are_of_other_patients(faulty):
    (exact,), (near,) = of(faulty, "duplicate"), of(faulty, "near-duplicate")
    films = {path: film(path) for path in faulty.glob("films/[0-9][0-9][0-9][0-9].dcm")}
    (original,) = [path for path, pixels in films.items() if np.array_equal(pixels, film(exact))]
    assert pydicom.dcmread(original).PatientID != pydicom.dcmread(exact).PatientID
    distance, original = min((np.abs(pixels - film(near)).mean(), path) for path, pixels in films.items())
    assert 0.5 < distance < 5
    assert pydicom.dcmread(original).PatientID != pydicom.dcmread(near).PatientID


def test_what_is_wrong_with_a_file_is_wrong_there(faulty):
    manifest = {row["path"]: row for row in table(faulty / "MANIFEST.csv")}
    labels = {row["image"]: row["label"] for row in table(faulty / "labels.csv")}

    def one(fault):
        (path,) = of(faulty, fault)
        name = path.relative_to(faulty).as_posix()
        return path, name, manifest.get(name)

    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    path, _, row = one("corrupt")
    assert row["sha256"] == digest(path)
    with pytest.raises(ValueError, match="less than expected"):
        _ = pydicom.dcmread(path).pixel_array
    path, _, row = one("checksum")
    assert row["sha256"] != digest(path)
    assert int(row["size"]) == path.stat().st_size
    path, _, row = one("short")
    assert int(row["size"]) == path.stat().st_size + 100
    path, _, row = one("half-copied")
    assert row is not None
    assert not path.exists()
    path, _, row = one("unlisted")
    assert row is None
    assert path.exists()
    assert pydicom.dcmread(one("modality")[0]).Modality == "US"
    bomb = pydicom.dcmread(one("bomb")[0])
    assert bomb.Rows * bomb.Columns > 4_000_000_000
    assert labels[one("wrong-label")[1]] not in ("normal", "finding")
    assert one("no-label")[1] not in labels
    burned = of(faulty, "burned-in")
    assert sorted(pydicom.dcmread(path).BurnedInAnnotation for path in burned) == ["NO", "YES"]
    assert all((film(path)[:24, :48] > 254.5).mean() > 0.1 for path in burned)


def test_no_manifest_no_drop(tmp_path):
    folder = drop(tmp_path, faults=["no-manifest", "phi"])
    assert not list(folder.rglob("*MANIFEST*"))
    assert (folder / "labels.csv").is_file()
    assert set(planted(folder).values()) == {"phi"}


def test_leak_brings_known_patients_back(tmp_path):
    with pytest.raises(ParamsError, match="write an earlier drop"):
        drop(tmp_path, faults=["leak"])
    earlier = drop(tmp_path, patients=3)
    known = {str(pydicom.dcmread(path).PatientID) for path in earlier.glob("films/*")}
    again = drop(tmp_path, "second", faults=["leak"])
    assert {pydicom.dcmread(path).PatientID for path in of(again, "leak")} == known
    named = drop(tmp_path, "third", faults=["leak"], known_patients=["PAT-s0-00000042"])
    assert [pydicom.dcmread(path).PatientID for path in of(named, "leak")] == ["PAT-s0-00000042"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "../s0"}, "site is '../s0'"),
        ({"name": ""}, "drop is ''"),
        ({"patients": 0}, "patients is 0"),
        ({"size": 8}, "size is 8"),
        ({"shift": "lens"}, "shift is 'lens'; it must be one of: scanner"),
        ({"faults": ["flood"]}, "no fault is called 'flood'; there are: phi"),
        ({"patients": 1, "faults": ["phi", "burned-in"]}, "fewer films than faults"),
        ({"prevalence": 1.5}, "prevalence is 1.5"),
    ],
)
def test_what_makes_no_drop_is_refused_and_leaves_nothing(tmp_path, options, message):
    with pytest.raises(ParamsError, match=message.replace(".", r"\.")):
        drop(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_drop_is_not_written_over(tmp_path):
    drop(tmp_path)
    with pytest.raises(DataError, match="is there already"):
        drop(tmp_path)

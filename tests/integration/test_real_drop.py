"""CT slices of The Cancer Imaging Archive as drops of a hospital: who gets in, and no planted fault does."""

import hashlib
import io
import json
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.flows.hospital import KEY, Hospital
from tests.intake.conftest import write_drop
from ttl.data.dataset import PackedDataset
from ttl.intake.drop import MANIFEST
from ttl.intake.identity import Pseudonyms
from ttl.intake.received import taken
from ttl.intake.verdict import Reason

pytestmark = pytest.mark.data

NAME = "ct"
PARAMS = {
    "prepare": {},
    "intake": {
        NAME: {
            "incoming": "incoming",
            "classes": ["plain", "contrast"],
            "size": 128,
            "modalities": ["CT"],
            "licence": "CC BY 3.0",
        }
    },
}
PSEUDONYMS = Pseudonyms(bytes.fromhex(KEY))
PLANTED = ("DOE^JANE", "MRN-4711-PLANTED", "SMITH^PHYSICIAN")


@pytest.fixture
def slices(real_data):
    """Each slice's content by its name, in the order of patients."""
    folder = real_data / "siim-ct" / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no siim-ct in {real_data}")
    files = {path.name: path.read_bytes() for path in folder.glob("*.dcm")}
    return dict(sorted(files.items(), key=lambda one: (patient(one[1]), one[0])))


@pytest.fixture
def hospital(tmp_path):
    return Hospital.make(tmp_path / "hospital", PARAMS)


def header(content: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def patient(content: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(content), specific_tags=["PatientID"]).PatientID)


def label(name: str) -> str:
    return "contrast" if "CONTRAST_1" in name else "plain"


def drop(hospital, name, files, labels=None):
    rows = labels or {path: label(path) for path in files}
    return write_drop(hospital.incoming / "tcia" / name, files, list(rows.items()))


def intake(hospital):
    status, output = hospital.project.run("intake", "--push")
    assert status == 0, output
    return {one.drop: one for one in taken(hospital.layout.datasets / NAME)}


def verdicts(hospital, folder):
    status, output = hospital.project.run("data", "check", str(folder), "--json")
    assert status == 1, output
    return json.loads(output)


def test_all_but_six_exact_copies_get_in_and_no_patient_is_on_two_sides(hospital, slices):
    folder = drop(hospital, "all", slices)
    record = intake(hospital)["all"]
    assert (record.accepted, record.reasons) == (94, {Reason.DUPLICATE: 6})
    packed = PackedDataset.open(hospital.layout.datasets / NAME)
    packed.check()
    sides = packed.samples.select("patient_id", "split").unique()
    assert sides.height == sides["patient_id"].n_unique() == 54
    assert set(sides["split"]) == {"train", "val", "test"}
    # Nobody of the 54 is lost, and nobody's number stands there.
    assert set(sides["patient_id"]) == {
        PSEUDONYMS.of_patient(patient(one), "tcia") for one in slices.values()
    }
    # What comes again brings nothing.
    again = folder.rename(folder.parent / "again")
    assert len(verdicts(hospital, again)["quarantined"]) == 100


class Faults:
    """Plants faults in slices of its own; `wrong` are the files, and for what each must be quarantined."""

    def __init__(self, slices: Iterator[tuple[str, bytes]], labels: dict[str, str]) -> None:
        self.slices = slices
        self.labels = labels
        self.files: dict[str, bytes] = {}
        self.wrong: dict[str, Reason] = {}

    def plant(self, reason: Reason, content: bytes | None = None, **changes: object) -> str:
        """Add a slice with changed attributes, or other content in its place; return its path."""
        name, found = next(self.slices)
        if content is None:
            dataset = header(found)
            for keyword, value in changes.items():
                if value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)
            content = written(dataset)
        path = f"{len(self.wrong):02}-{reason}.dcm"
        self.files[path], self.labels[path], self.wrong[path] = content, label(name), reason
        return path

    def next_header(self) -> Dataset:
        return header(next(self.slices)[1])


def written(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def text_on(dataset: Dataset) -> Dataset:
    values = dataset.pixel_array.copy()
    image = Image.new("1", values.shape[::-1])
    draw = ImageDraw.Draw(image)
    draw.multiline_text((4, 4), "DOE JANE\nMRN 4711", 1, ImageFont.load_default(32))
    values[np.asarray(image)] = values.max()
    dataset.PixelData = values.tobytes()
    return dataset


def pictured(dataset: Dataset, of: Dataset, *, grain: float) -> Dataset:
    """Give a slice the image of another patient's, with some noise."""
    values = of.pixel_array
    noise = np.random.default_rng(0).normal(0, grain, values.shape)
    dataset.PixelData = np.clip(values + noise, values.min(), values.max()).astype(values.dtype).tobytes()
    for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "PixelRepresentation"):
        if keyword in of:
            dataset[keyword] = of[keyword]
    return dataset


def plant_all(faults: Faults, known: Dataset, frozen: str) -> tuple[str, str]:
    """Plant every kind of fault; return the paths whose content is changed, or not listed, in the drop.

    `known` is a slice that is there already, `frozen` a patient of the test set.
    """
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "69536005", "SCT", "Head"
    item.PatientComments = PLANTED[2]
    identity = Reason.NOT_DEIDENTIFIED
    faults.plant(identity, PatientName=PLANTED[0])
    faults.plant(identity, PatientBirthDate="19511105", OtherPatientIDs=PLANTED[1])
    faults.plant(identity, PatientIdentityRemoved="NO")
    faults.plant(identity, PatientIdentityRemoved=None)
    faults.plant(identity, AnatomicRegionSequence=Sequence([item]))
    faults.plant(Reason.BURNED_IN, BurnedInAnnotation="YES")
    faults.plant(Reason.BURNED_IN, written(text_on(faults.next_header())))
    faults.plant(Reason.UNREADABLE, written(faults.next_header())[:-300_000])
    faults.plant(Reason.UNREADABLE, b"no DICOM at all")
    faults.plant(Reason.TOO_LARGE, Rows=65535, Columns=65535)
    faults.plant(Reason.MODALITY, Modality="US")
    faults.plant(Reason.PHOTOMETRIC, PhotometricInterpretation="YBR_PARTIAL_420")
    faults.plant(Reason.NO_PATIENT, PatientID="", PatientName="")
    faults.plant(Reason.FROZEN_PATIENT, PatientID=frozen, PatientName=frozen)
    faults.plant(Reason.DUPLICATE, written(pictured(faults.next_header(), known, grain=0)))
    faults.plant(Reason.NEAR_DUPLICATE, written(pictured(faults.next_header(), known, grain=4)))
    faults.labels[faults.plant(Reason.UNKNOWN_LABEL)] = "no such class"
    del faults.labels[faults.plant(Reason.NO_LABEL)]
    return faults.plant(Reason.CHECKSUM), faults.plant(Reason.UNLISTED)


def test_every_planted_fault_is_caught_and_no_good_slice_is_lost(hospital, slices):
    found, seen = {}, set()
    for name, content in slices.items():
        digest = hashlib.sha256(header(content).PixelData).hexdigest()
        if digest not in seen:
            found[name] = content
            seen.add(digest)
    people = sorted({patient(content) for content in found.values()})
    before, after = set(people[:20]), set(people[20:30])
    january = {name: content for name, content in found.items() if patient(content) in before}
    february = {name: content for name, content in found.items() if patient(content) in after}
    others = iter([one for one in found.items() if patient(one[1]) not in before | after])

    drop(hospital, "january", january)
    assert intake(hospital)["january"].accepted == len(january)
    packed = PackedDataset.open(hospital.layout.datasets / NAME)
    sides = dict(packed.samples.select("patient_id", "split").iter_rows())
    frozen = next(one for one in sorted(before) if sides[PSEUDONYMS.of_patient(one, "tcia")] == "test")

    labels = {name: label(name) for name in february}
    faults = Faults(others, labels)
    checksum, unlisted = plant_all(faults, header(next(iter(january.values()))), frozen)

    # Private attributes are no fault: they are dropped, whatever they say.
    private = header(february[max(february)])
    private.private_block(0x0011, "PLANTED", create=True).add_new(0x01, "LO", PLANTED[0])
    february[max(february)] = written(private)

    stray = faults.files.pop(unlisted)
    folder = drop(hospital, "february", {**february, **faults.files}, labels)
    (folder / unlisted).write_bytes(stray)
    whole = (folder / checksum).read_bytes()
    (folder / checksum).write_bytes(whole[:-1] + bytes([255 - whole[-1]]))

    # Of what has come in part or not at all the sender is told, and the drop waits.
    late, short = sorted(february)[:2]
    (folder / late).rename(hospital.folder / late)
    (folder / short).write_bytes(february[short][:-100])
    told = verdicts(hospital, folder)
    reasons = {one["path"]: Reason(one["reason"]) for one in told["quarantined"]}
    assert reasons == {**faults.wrong, late: Reason.MISSING, short: Reason.SIZE}
    assert set(reasons.values()) == set(Reason), "a kind of fault is not planted"
    assert "february" not in intake(hospital)
    (hospital.folder / late).rename(folder / late)
    (folder / short).write_bytes(february[short])

    record = intake(hospital)["february"]
    assert record.quarantined == {
        PSEUDONYMS.of("file", path): str(reason) for path, reason in faults.wrong.items()
    }
    assert record.accepted == len(february)
    packed = PackedDataset.open(hospital.layout.datasets / NAME)
    packed.check()
    assert packed.samples.height == len(january) + len(february)
    sides = packed.samples.select("patient_id", "split").unique()
    assert set(sides["patient_id"]) == {PSEUDONYMS.of_patient(one, "tcia") for one in before | after}
    assert sides.height == len(before | after)

    wanted = [text.encode() for text in PLANTED] + [one.encode() for one in people if len(one) > 8]
    wrote = [path for path in hospital.folder.rglob("*") if path.is_file() and "incoming" not in path.parts]
    assert {path for path in wrote if any(name in path.read_bytes() for name in wanted)} == set()
    assert MANIFEST not in {path.name for path in wrote}

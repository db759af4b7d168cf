"""CT slices of The Cancer Imaging Archive, which CTP has de-identified, as a drop."""

import shutil

import pydicom
import pytest

from tests.intake.conftest import PSEUDONYMS, SPEC, write_drop
from ttl.intake import burned
from ttl.intake.check import check_drop, summary
from ttl.intake.dicom import read
from ttl.intake.drop import open_drop
from ttl.intake.identity import problems
from ttl.intake.similar import Known
from ttl.intake.spec import IntakeSpec

pytestmark = pytest.mark.data

CT = IntakeSpec(incoming="incoming", classes=("plain", "contrast"), size=128)


@pytest.fixture
def slices(real_data):
    if not (real_data / "siim-ct" / "dicom").is_dir():
        pytest.skip(f"no siim-ct in {real_data}")
    return sorted((real_data / "siim-ct" / "dicom").glob("*.dcm"))


def test_all_headers_pass_and_none_does_with_its_name_put_back(slices):
    assert len(slices) == 100
    for path in slices:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert problems(header) == []
        header.PatientName = "Doe^Jane"
        header.PatientBirthDate = "19500201"
        assert problems(header) == ["PatientBirthDate", "PatientName"]


def test_no_slice_is_suspected_of_writing(slices):
    assert [path.name for path in slices if burned.seen(read(path.read_bytes(), SPEC).pixels)] == []


def test_as_a_drop_all_but_six_exact_copies_are_accepted(slices, tmp_path):
    labels = {path.name: "contrast" if "CONTRAST_1" in path.name else "plain" for path in slices}
    files = {path.name: path.read_bytes() for path in slices}
    folder = write_drop(tmp_path / "tcia" / "one", files, list(labels.items()))
    known = Known.of(None)
    found = list(check_drop(open_drop(str(folder)), CT, known, PSEUDONYMS, workers=0))
    assert summary(one.verdict for one in found) == {"accepted": 94, "duplicate": 6}
    images = [one.image for one in found if one.image is not None]
    assert len({image.patient_id for image in images}) == 54
    assert len({image.sample_id for image in images}) == 94
    assert {image.label for image in images} == {0, 1}
    # The other way round, each of the six is a copy of what is known.
    again = shutil.copytree(folder, tmp_path / "tcia" / "two")
    found = check_drop(open_drop(str(again)), CT, known, PSEUDONYMS, workers=0)
    assert summary(one.verdict for one in found) == {"duplicate": 100}

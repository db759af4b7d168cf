"""De-identification as PS3.15 has it, and pseudonyms."""

import hashlib
import hmac

import pydicom
import pytest

from tests.intake.conftest import code, dataset
from ttl.errors import DataError
from ttl.intake.identity import Pseudonyms, problems


def test_a_deidentified_header_has_no_problems():
    assert problems(dataset()) == []


@pytest.mark.parametrize("value", [None, "NO", "", "MAYBE"])
def test_the_file_must_say_that_it_is_deidentified(value):
    assert problems(dataset(PatientIdentityRemoved=value)) == ["PatientIdentityRemoved"]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "Doe^Jane"),
        ("PatientName", "P0002"),
        ("PatientBirthDate", "19500201"),
        ("PatientBirthTime", "1200"),
        ("PatientMotherBirthName", "Roe"),
        ("PatientAddress", "1 High Street"),
        ("PatientTelephoneNumbers", "555 1234"),
        ("PatientComments", "came with her son"),
        ("OtherPatientIDs", "4711"),
        ("OtherPatientNames", "Jane^Roe"),
        ("ReferringPhysicianName", "House^G"),
        ("OperatorsName", "Smith"),
        ("AccessionNumber", "A-4711"),
        ("AdmissionID", "4711"),
        ("StudyID", "12"),
        ("MedicalRecordLocator", "4711"),
        ("InstitutionName", "General Hospital"),
        ("InstitutionAddress", "1 High Street"),
        ("StudyDescription", "CT of Mrs Doe"),
        ("ImageComments", "for Dr House"),
        ("PatientAge", "074Y"),
        ("PatientSex", "F"),
        ("DeviceSerialNumber", "50032"),
        ("StationName", "CT1"),
        ("IssuerOfPatientID", "General Hospital"),
        ("EvaluatorName", "Smith^J"),
    ],
)
def test_what_identifies_is_named_and_its_value_is_not(keyword, value):
    assert problems(dataset(**{keyword: value})) == [keyword]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", ""),
        ("PatientName", "Anonymous"),
        ("PatientName", "ANONYMIZED^^"),
        ("PatientSex", "O"),
        ("StudyDescription", "REMOVED"),
        ("PatientBirthDate", "19000101"),
        ("PatientBirthTime", "000000.000000"),
        ("AccessionNumber", "2819497684894126"),
        ("StudyInstanceUID", "1.2.3"),
    ],
)
def test_dummies_are_fine(keyword, value):
    assert problems(dataset(**{keyword: value})) == []


def test_a_name_that_stands_as_the_patients_id_too_is_a_name():
    assert problems(dataset(patient="Doe^Jane")) == ["PatientName"]
    assert problems(dataset(patient="Doe Jane")) == ["PatientName"]
    assert problems(dataset(patient="TCGA-17-Z058")) == []


@pytest.mark.parametrize(
    ("option", "keyword", "value"),
    [
        ("113106", "StudyTime", "101500"),
        ("113107", "SeriesDate", "20240301"),
        ("113108", "PatientAge", "074Y"),
        ("113109", "DeviceSerialNumber", "50032"),
        ("113112", "InstitutionName", "General Hospital"),
        ("113105", "StudyDescription", "CT chest"),
    ],
)
def test_an_option_keeps_what_it_keeps_only_if_it_is_declared(option, keyword, value):
    without = [code("113100")]
    made = dataset(AcquisitionDate=None, StudyDate=None, **{keyword: value})
    made.DeidentificationMethodCodeSequence = without
    assert problems(made) == [keyword]
    made.DeidentificationMethodCodeSequence = [*without, code(option)]
    assert problems(made) == []


def test_no_option_keeps_a_name_or_a_birthday():
    every = [code(str(number)) for number in range(113100, 113113)]
    made = dataset(PatientName="Doe^Jane", PatientBirthDate="19500201", PatientAddress="1 High Street")
    made.DeidentificationMethodCodeSequence = every
    assert problems(made) == ["PatientAddress", "PatientBirthDate", "PatientName"]


def test_sequences_are_looked_into():
    inner, other, outer = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    inner.ReferringPhysicianName = "House^G"
    outer.ReferencedStudySequence = [inner]
    other.PatientID = "4711"
    made = dataset(ReferencedSeriesSequence=[outer], OtherPatientIDsSequence=[other])
    assert problems(made) == [
        "OtherPatientIDsSequence",
        "ReferencedSeriesSequence/ReferencedStudySequence/ReferringPhysicianName",
    ]
    harmless = pydicom.Dataset()
    harmless.ReferencedSOPInstanceUID = "1.2.3"
    assert problems(dataset(ReferencedImageSequence=[harmless])) == []


def test_private_attributes_are_not_judged():
    made = dataset()
    made.add_new((0x0019, 0x0010), "LO", "MAKER")
    made.add_new((0x0019, 0x1001), "LO", "anything")
    assert problems(made) == []


def test_a_header_as_scanners_write_it_fails():
    made = dataset(PatientIdentityRemoved=None, DeidentificationMethodCodeSequence=None, patient="4711")
    made.PatientName, made.PatientBirthDate, made.PatientSex = "Doe^Jane", "19500201", "F"
    made.InstitutionName, made.StudyTime = "General Hospital", "101500"
    assert set(problems(made)) == {
        "AcquisitionDate",
        "InstitutionName",
        "PatientBirthDate",
        "PatientIdentityRemoved",
        "PatientName",
        "PatientSex",
        "StudyDate",
        "StudyTime",
    }


def test_pseudonyms_are_hmacs_and_differ_by_kind_and_key():
    key = bytes(range(32))
    one = Pseudonyms(key)
    assert one.of("patient", "4711") == hmac.new(key, b"patient\x004711", hashlib.sha256).hexdigest()[:16]
    assert one.of("patient", "4711") != one.of("file", "4711")
    assert one.of_patient("4711", None) == one.of("patient", "4711")
    assert len({one.of_patient("4711", site) for site in ("north", "south", None)}) == 3
    assert one.of("patient", "4711") != Pseudonyms(bytes(32)).of("patient", "4711")
    assert key.hex() not in repr(one)
    assert repr(key) not in repr(one)


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("TTL_INTAKE_KEY", "ab" * 32)
    assert Pseudonyms.from_environment() == Pseudonyms(b"\xab" * 32)


@pytest.mark.parametrize("value", [None, "", "ab" * 31, "no hexadecimal digits" * 10])
def test_without_a_key_of_32_bytes_one_is_told_how_to_make_it(monkeypatch, value):
    monkeypatch.delenv("TTL_INTAKE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TTL_INTAKE_KEY", value)
    with pytest.raises(DataError, match="TTL_INTAKE_KEY") as caught:
        Pseudonyms.from_environment()
    assert "secrets.token_hex(32)" in str(caught.value)
    assert not value or value not in str(caught.value)

"""Whether a DICOM header is de-identified, and the keyed hashes that stand for patients and files.

The judge's measure is the basic profile of DICOM PS3.15, annex E: an attribute that it removes, empties or
replaces must be absent, empty or a dummy, unless an option of the profile that the file declares keeps it
(`DeidentificationMethodCodeSequence`). What names a person directly is kept by no option.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pydicom
from dicomanonymizer.dicom_anonymization_databases import (  # type: ignore[import-untyped]
    dicomfields_2026c as profile,
)
from pydicom.datadict import (  # type: ignore[attr-defined]
    DicomDictionary,
    dictionary_has_tag,
    dictionary_keyword,
    dictionary_VR,
)
from pydicom.tag import BaseTag, Tag

from ttl.errors import DataError

KEY = "TTL_INTAKE_KEY"
KEY_BYTES = 32

FULL_DATES, MODIFIED_DATES = "113106", "113107"
CLEAN_GRAPHICS, CLEAN_STRUCTURE, CLEAN_DESCRIPTORS = "113103", "113104", "113105"
PATIENT, DEVICE, INSTITUTION = "113108", "113109", "113112"

DUMMIES = frozenset(
    {
        "anon",
        "anonym",
        "anonymous",
        "anonymized",
        "anonymised",
        "anonymize",
        "deidentified",
        "de-identified",
        "dummy",
        "none",
        "null",
        "removed",
        "redacted",
        "unknown",
        "unspecified",
        "na",
        "n/a",
        "nn",
        "no_name",
        "noname",
        "o",
        "other",
        "value",
        "000y",
    }
)
NO_DATES = re.compile(r"0*|(0001|1900|1970|9999)-?(01-?01|12-?31)[0.:]*|0+\.0+")

_DATES = frozenset({FULL_DATES, MODIFIED_DATES})
_NEVER: frozenset[str] = frozenset()

_PEOPLE = re.compile(
    r"^Patient(ID|Name|Birth\w*|MotherBirthName|Address|Tele\w+|Comments|Insurance\w*|InstitutionResidence|"
    r"ReligiousPreference)$|OtherPatient|Address|Telephone|Telecom|Phone|Person|Physician|Operator|Performer|"
    r"Recipient|Author|Identification|Identifying|Issuer|^(Admission|ServiceEpisode|Visit|Study|Results)ID$|"
    r"ProcedureID|StepID|AccessionNumber|OrderNumber|MedicalRecord|MilitaryRank|Residence|CurrentPatient|"
    r"Responsible|^GPS|Owner|Visit|Subject|Alias|Photo"
)
"""Attributes that tell who somebody is, or lead there."""

_KEPT_BY = (
    (PATIENT, re.compile(r"^Patient(Sex|SexNeutered|Age|Size|Weight|State)$|^EthnicGroup|SmokingStatus|"
                         r"PregnancyStatus|SpecialNeeds|Allergies|PreMedication")),
    (INSTITUTION, re.compile(r"^Institution")),
    (DEVICE, re.compile(r"SerialNumber|Station|^(Gantry|Detector|Plate|Cassette|Generator|XRay\w+)"
                        r"(ID|Label)$|^(Device|LongDevice|Lens|Source(?!Of)|Manufacturer|UDI|UniqueDevice)|"
                        r"DeviceID$|Calibration|TreatmentMachineName|DateOfManufacture|DateOfInstallation|"
                        r"AcquisitionDeviceProcessing")),
    (CLEAN_GRAPHICS, re.compile(r"^GraphicAnnotation")),
    (CLEAN_STRUCTURE, re.compile(r"^(Content|AcquisitionContext|SpecimenPreparation)Sequence$")),
    (CLEAN_DESCRIPTORS, re.compile(r"Description|Comments|Notes|Label|^ReasonFor|Impressions|"
                                   r"InterpretationText|AdditionalPatientHistory|Allergies|MedicalAlerts|PatientState|PreMedication|"
                                   r"ContrastAgent|ContrastBolusAgent|ProtocolName|SpecialNeeds|Occupation|"
                                   r"^(AdmittingDiagnosesCode|RequestAttributes)Sequence$|^(StructureSet|RTPlan|"
                                   r"ROI|Entity)Name$|TreatmentSite|RequestedProcedureDescription")),
)  # fmt: skip
"""What each option of the profile lets stand (PS3.15, table E.1-1, cleaned or retained)."""

_REFERENCES = re.compile(r"^(Referenced|Source)\w*Sequence$")
"""Sequences of references by UID, of which nothing is stored; what else they have is judged."""


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Names for patients and files that only the holder of the key can give again (HMAC-SHA256)."""

    key: bytes = field(repr=False)

    def of(self, kind: str, text: str) -> str:
        """Return 16 hexadecimal digits for a text; of another `kind` the same text has others."""
        message = f"{kind}\0{text}".encode()
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:16]

    def of_patient(self, patient_id: str, site: str | None) -> str:
        """Return those of a patient, as known at a site, or everywhere where that is None."""
        return self.of("patient", patient_id if site is None else f"{site}\0{patient_id}")

    @classmethod
    def from_environment(cls) -> "Pseudonyms":
        """Return those of the key in the environment. Raises `DataError` if there is none to be used."""
        try:
            key = bytes.fromhex(os.environ.get(KEY, ""))
        except ValueError:
            key = b""
        if len(key) < KEY_BYTES:
            raise DataError(
                f"{KEY} must hold {KEY_BYTES} bytes or more in hexadecimal digits: the key from which "
                "patients' pseudonyms are made. Make one, once for all drops of a dataset; keep it secret:\n"
                "  python -c 'import secrets; print(secrets.token_hex(32))'"
            )
        return cls(key)


def is_dummy(text: str) -> bool:
    """Return whether a text stands for a value that was taken away."""
    plain = text.strip(" ^=").lower()
    return not plain or plain in DUMMIES


def problems(dataset: pydicom.Dataset) -> list[str]:
    """Return the keywords of the attributes for which a header is not de-identified; none if it is.

    `PatientIdentityRemoved` is one of them unless it is YES. Attributes in sequences are `Sequence/Keyword`.
    Private attributes and UIDs are not judged: neither is kept. Nor are dummies of kinds that cannot be
    told from the truth: a `PatientID`; an `AccessionNumber` of 16 digits, as hashes are written, where the
    basic profile is declared; modified dates.
    """
    found = (
        [] if _text(dataset.get("PatientIdentityRemoved")).upper() == "YES" else ["PatientIdentityRemoved"]
    )
    declared = frozenset(
        _text(item.get("CodeValue")) for item in dataset.get("DeidentificationMethodCodeSequence") or ()
    )
    return found + sorted(set(_judge(dataset, dataset, declared, "")))


def _judge(
    dataset: pydicom.Dataset, top: pydicom.Dataset, declared: frozenset[str], prefix: str
) -> Iterator[str]:
    for tag in dataset.keys():  # noqa: SIM118 - a data set's iterator decodes every value
        if tag.is_private:
            continue
        vr = dataset.get_item(tag).VR
        name = prefix + (dictionary_keyword(tag) if dictionary_has_tag(tag) else f"{tag:08X}")
        if vr == "SQ" or tag in _SEQUENCES:
            items = dataset[tag].value or ()
            if tag in _PROFILE and any(len(item) for item in items) and not _PROFILE[tag] & declared:
                yield name
            for item in items:
                yield from _judge(item, top, declared, f"{name}/")
        elif (vr == "PN" or tag in _PROFILE or tag in _NAMES) and not _fine(dataset, tag, top, declared):
            yield name


def _fine(dataset: pydicom.Dataset, tag: BaseTag, top: pydicom.Dataset, declared: frozenset[str]) -> bool:
    """Return whether an attribute is empty, a dummy, or kept by an option that is declared."""
    if not _raw_value(dataset, tag):
        return True
    if _PROFILE.get(tag, _NEVER) & declared:
        return True
    element = dataset[tag]
    values = element.value if element.VM > 1 else [element.value]
    return all(_is_dummy(_text(value), tag, element.VR, top, declared) for value in values)


def _is_dummy(text: str, tag: BaseTag, vr: str, top: pydicom.Dataset, declared: frozenset[str]) -> bool:
    if is_dummy(text):
        return True
    plain = text.strip(" ^=").lower()
    if vr in ("DA", "TM", "DT"):
        return NO_DATES.fullmatch(plain) is not None
    if tag == _PATIENT_NAME:
        # TCIA's practice. A name that stands in both places is a name all the same.
        return text == _text(top.get("PatientID")) and "^" not in text and any(c.isdigit() for c in text)
    return tag == _ACCESSION and "113100" in declared and re.fullmatch(r"[0-9]{16}", plain) is not None


def _raw_value(dataset: pydicom.Dataset, tag: BaseTag) -> bool:
    """Return whether an element has a value, without decoding it."""
    value = dataset.get_item(tag).value
    if isinstance(value, bytes):
        return bool(value.strip(b" \0"))
    return value not in (None, "") and value != []


def _text(value: object) -> str:
    return "" if value is None else str(value).strip(" \0")


def _options(tag: BaseTag) -> frozenset[str]:
    keyword = dictionary_keyword(tag) if dictionary_has_tag(tag) else ""
    vr = dictionary_VR(tag) if keyword else ""
    if not keyword or vr == "PN" or _PEOPLE.search(keyword):
        return _NEVER
    dates = _DATES if vr in ("DA", "TM", "DT") or keyword == "TimezoneOffsetFromUTC" else _NEVER
    return dates | {option for option, pattern in _KEPT_BY if pattern.search(keyword)}


def _profile() -> dict[BaseTag, frozenset[str]]:
    """Return the attributes that the basic profile deals with, UIDs aside, and the options that keep each."""
    uids = {Tag(*tag) for tag in profile.U_TAGS}
    found = {Tag(*tag) for tag in profile.ALL_TAGS if len(tag) == 2} - uids
    kept = {tag: _options(tag) for tag in found if not dictionary_has_tag(tag) or dictionary_VR(tag) != "UI"}
    for tag in [
        tag for tag in kept if dictionary_has_tag(tag) and _REFERENCES.search(dictionary_keyword(tag))
    ]:
        del kept[tag]
    del kept[Tag("PatientID")]
    return kept


_PATIENT_NAME, _ACCESSION = Tag("PatientName"), Tag("AccessionNumber")
_NAMES = frozenset(Tag(tag) for tag, entry in DicomDictionary.items() if entry[0] == "PN")
_SEQUENCES = frozenset(Tag(tag) for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
_PROFILE = _profile()

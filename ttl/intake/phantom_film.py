"""The films of a simulated hospital: drawn, and written as DICOM, whose window gives back what was drawn."""

import datetime
import hashlib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from ttl.data.sources.phantom import CLASSES, OTHER_SCANNER, SCANNERS, Scanner, draw_anatomy, draw_film

STEP = 16
"""Values of the window between two grey levels of the film."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What takes a site's films, and how it writes them down.

    A pixel of value p means p · `slope` + `intercept`; `inverted` is MONOCHROME1, where the least is white.
    """

    modality: str
    inverted: bool
    slope: float
    intercept: float
    model: str
    scanner: Scanner


MACHINES = (
    Machine(modality="CR", inverted=False, slope=0.5, intercept=-100, model="CR 0", scanner=SCANNERS[0]),
    Machine(modality="DX", inverted=True, slope=1, intercept=0, model="DX 1", scanner=SCANNERS[1]),
    Machine(modality="DX", inverted=False, slope=1, intercept=0, model="DX 2", scanner=SCANNERS[2]),
)
"""Those of the sites, by the site's number."""

OTHER_MACHINE = Machine(
    modality="DX", inverted=True, slope=1, intercept=0, model="DX X", scanner=OTHER_SCANNER
)
"""The new one that no site had before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A film to deliver: `pixels` are uint8 [size, size], `label` None where `labels.csv` has no row for it.

    `key` determines its identifiers. What is planted in it: `fault` is its name; `edit` changes the header,
    `damage` the bytes that the manifest lists, `tamper` the bytes after that (None: no file); one that is not
    `listed` is not in the manifest.
    """

    key: str
    patient: str
    day: datetime.date
    pixels: NDArray[np.uint8]
    label: str | None
    machine: Machine
    fault: str = ""
    edit: Callable[[Dataset], None] = lambda _: None
    damage: Callable[[bytes], bytes] = lambda content: content
    tamper: Callable[[bytes], bytes | None] = lambda content: content
    listed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinic:
    """Who delivers a drop: what determines its films, given the patients. `size` is their side in pixels."""

    site: str
    drop: str
    date: datetime.date
    seed: int
    size: int
    strength: float
    machine: Machine

    def patient(self, place: int) -> str:
        """Return the pseudonym of a new patient of this drop, by the place in it."""
        first = int(_digest("numbers", self.site, self.drop, self.date, self.seed)[:12], 16)
        return f"PAT-{self.site}-{(first + place) % 10**8:08d}"

    def draw(self, patient: str, number: int, *, ill: bool) -> Film:
        """Return the film of this number in the drop; whoever comes again has the same anatomy."""
        anatomy = draw_anatomy(_stream("anatomy", patient, self.seed))
        key = f"{self.site}/{self.drop}/{self.date}/{self.seed}/{number}"
        rng = _stream("film", patient, key)
        strength = self.strength if ill else 0.0
        return Film(
            key=key,
            patient=patient,
            day=self.date - datetime.timedelta(days=int(rng.integers(1, 28))),
            pixels=draw_film(anatomy, 0, strength, self.size, rng, scanner=self.machine.scanner),
            label=CLASSES[int(ill)],
            machine=self.machine,
        )

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the drop's random numbers for a purpose."""
        return _stream(purpose, self.site, self.drop, self.date, self.seed)


def machine_of(site: str) -> Machine:
    """Return the machine of a site, by the digits that its name ends in or else its checksum."""
    digits = site[len(site.rstrip("0123456789")) :]
    number = int(digits) if digits else zlib.crc32(site.encode())
    return MACHINES[number % len(MACHINES)]


def encode(film: Film) -> bytes:
    """Return the film as a DICOM file."""
    dataset = Dataset()
    _identity(dataset, film)
    _deidentification(dataset)
    _image(dataset, film)
    if film.machine.modality == "DX":
        _projection(dataset)
    film.edit(dataset)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _identity(dataset: Dataset, film: Film) -> None:
    dataset.SOPClassUID = (
        ComputedRadiographyImageStorage
        if film.machine.modality == "CR"
        else DigitalXRayImageStorageForPresentation
    )
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["film", film.key])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", film.key])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", film.key])
    dataset.PatientID = film.patient
    # Type 2 of their modules: there, and empty.
    for keyword in (
        "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
        "AccessionNumber", "ReferringPhysicianName",
    ):  # fmt: skip
        setattr(dataset, keyword, "")
    dataset.Modality = film.machine.modality
    dataset.Manufacturer = "SYNTHETIC"
    dataset.ManufacturerModelName = film.machine.model
    dataset.SyntheticData = "YES"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "AP"
    dataset.PatientOrientation = ["L", "F"]


def _deidentification(dataset: Dataset) -> None:
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = Sequence(
        [_code("113100", "DCM", "Basic Application Confidentiality Profile")]
    )
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.BurnedInAnnotation = "NO"


def _image(dataset: Dataset, film: Film) -> None:
    machine = film.machine
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if machine.inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = film.pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 14, 13, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = (
        machine.intercept,
        machine.slope,
        "US",
    )
    dataset.PresentationLUTShape = "INVERSE" if machine.inverted else "IDENTITY"
    # PS3.3 C.11.2.1.2: grey = ((value − (centre − 0.5)) / (width − 1) + 0.5) · 255.
    dataset.WindowCenter, dataset.WindowWidth = STEP * 127.5 + 0.5, STEP * 255 + 1
    dataset.LossyImageCompression = "00"
    grey = film.pixels.astype(np.float64)
    values = STEP * (255 - grey if machine.inverted else grey)
    stored = np.round((values - machine.intercept) / machine.slope)
    dataset.PixelData = stored.astype("<u2").tobytes()


def _projection(dataset: Dataset) -> None:
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.ImageLaterality = "U"
    dataset.DetectorType = ""
    dataset.AcquisitionContextSequence = Sequence()
    dataset.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Chest")])
    view = _code("399348003", "SCT", "Antero-posterior projection")
    view.ViewModifierCodeSequence = Sequence()
    dataset.ViewCodeSequence = Sequence([view])


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _stream(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int(_digest(*parts), 16))

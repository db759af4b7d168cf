"""What can be wrong with a drop of the simulated hospital: each fault in one or two films of good ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UltrasoundImageStorage

from ttl.errors import ParamsError
from ttl.intake.phantom_film import Clinic, Film
from ttl.intake.verdict import Reason

PLANTED_NAME = "PLANTED^NAME"
PLANTED_NUMBER = "MRN-PLANTED-4711"
PLANTED_BIRTH = "19511105"
PLANTED_HOSPITAL = "PLANTED HOSPITAL"
PLANTED_COMMENT = "SEEN BY PLANTED^PHYSICIAN"
PLANTED = (PLANTED_NAME, PLANTED_NUMBER, PLANTED_BIRTH, PLANTED_HOSPITAL, PLANTED_COMMENT)
"""Everything that the fault `phi` plants: none of it may be found in anything that intake writes."""

WRONG_LABEL = "no-such-class"


class Draft:
    """A drop in the making: its films in order, and which of them no fault has touched yet."""

    def __init__(self, clinic: Clinic, films: list[Film], known: tuple[str, ...]) -> None:
        self.clinic = clinic
        self.films = films
        self.known = known
        self.whole = True
        self.newcomers = len({film.patient for film in films})
        self.untouched = [int(i) for i in clinic.stream("faults").permutation(len(films))]

    def pick(self) -> int:
        """Return the place of a film that no other fault gets."""
        if not self.untouched:
            raise ParamsError(
                "there are fewer films than faults to plant; give more patients or fewer faults"
            )
        return self.untouched.pop()

    def change(self, change: Callable[[Film], Film]) -> None:
        """Plant something in a film."""
        place = self.pick()
        self.films[place] = change(self.films[place])

    def add(self, patient: str | None = None) -> Film:
        """Return one film more, of a new patient if none is given, to be appended."""
        if patient is None:
            patient = self.clinic.patient(self.newcomers)
            self.newcomers += 1
        return self.clinic.draw(patient, len(self.films), ill=len(self.films) % 2 == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`reason` is what its files are quarantined for, None for a drop that is not complete."""

    reason: Reason | None
    plant: Callable[[Draft], None]


def _plant_identity(draft: Draft) -> None:
    def openly(dataset: Dataset) -> None:
        dataset.PatientName = PLANTED_NAME
        dataset.OtherPatientIDs = PLANTED_NUMBER
        dataset.PatientBirthDate = PLANTED_BIRTH
        dataset.InstitutionName = PLANTED_HOSPITAL
        private = dataset.private_block(0x0011, "PLANTED PRIVATE", create=True)
        private.add_new(0x01, "LO", PLANTED_NAME)

    def deep(dataset: Dataset) -> None:
        # The profile holds at any depth, and this sequence is not one that it removes as a whole.
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "51185008", "SCT", "Chest"
        item.PatientComments = PLANTED_COMMENT
        dataset.AnatomicRegionSequence = Sequence([item])

    draft.change(lambda film: replace(film, fault="phi", edit=openly))
    draft.change(lambda film: replace(film, fault="phi", edit=deep))


def _burn_in(draft: Draft) -> None:
    def declare(dataset: Dataset) -> None:
        dataset.BurnedInAnnotation = "YES"

    draft.change(lambda film: replace(film, fault="burned-in", pixels=_write_on(film.pixels), edit=declare))
    draft.change(lambda film: replace(film, fault="burned-in", pixels=_write_on(film.pixels)))


def _write_on(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a film with writing in its upper left corner, in letters that can be read at any size."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    font = ImageFont.load_default(max(10, len(pixels) // 16))
    draw.multiline_text((1, 1), "PLANTED\nMRN 4711", 255, font, spacing=1)
    return np.asarray(image)


def _copy(draft: Draft) -> None:
    original = draft.films[draft.pick()]
    copy = replace(draft.add(), pixels=original.pixels, label=original.label, fault="duplicate")
    draft.films.append(copy)


def _copy_nearly(draft: Draft) -> None:
    original = draft.films[draft.pick()]
    grain = draft.clinic.stream("near-duplicate").normal(0, 1, original.pixels.shape)
    pixels = np.clip(original.pixels * 0.98 + grain + 0.5, 0, 255).astype(np.uint8)
    draft.films.append(replace(draft.add(), pixels=pixels, label=original.label, fault="near-duplicate"))


def _bring_back(draft: Draft) -> None:
    if not draft.known:
        raise ParamsError(
            "fault leak delivers patients who are known already, and none are: write an earlier drop of the "
            "site first, or name patients"
        )
    for patient in draft.known:
        draft.films.append(replace(draft.add(patient), fault="leak"))


def _add_unlisted(draft: Draft) -> None:
    draft.films.append(replace(draft.add(), fault="unlisted", listed=False))


def _ultrasound(dataset: Dataset) -> None:
    dataset.Modality, dataset.SOPClassUID = "US", UltrasoundImageStorage


def _enlarge(dataset: Dataset) -> None:
    dataset.Rows = dataset.Columns = 65535


def _withhold_manifest(draft: Draft) -> None:
    draft.whole = False


def _changed(name: str, reason: Reason, change: Callable[[Film], Film]) -> tuple[str, Fault]:
    def plant(draft: Draft) -> None:
        draft.change(lambda film: replace(change(film), fault=name))

    return name, Fault(reason=reason, plant=plant)


FAULTS_BY_NAME: dict[str, Fault] = {
    "phi": Fault(reason=Reason.NOT_DEIDENTIFIED, plant=_plant_identity),
    "burned-in": Fault(reason=Reason.BURNED_IN, plant=_burn_in),
    "duplicate": Fault(reason=Reason.DUPLICATE, plant=_copy),
    "near-duplicate": Fault(reason=Reason.NEAR_DUPLICATE, plant=_copy_nearly),
    "leak": Fault(reason=Reason.FROZEN_PATIENT, plant=_bring_back),
    "unlisted": Fault(reason=Reason.UNLISTED, plant=_add_unlisted),
    "no-manifest": Fault(reason=None, plant=_withhold_manifest),
    **dict(
        [
            # Less than half of the pixels, in a file that is as its sender meant it to be.
            _changed(
                "corrupt",
                Reason.UNREADABLE,
                lambda film: replace(film, damage=lambda content: content[: -film.pixels.size - 1]),
            ),
            _changed(
                "checksum",
                Reason.CHECKSUM,
                lambda film: replace(film, tamper=lambda content: content[:-1] + bytes([255 - content[-1]])),
            ),
            _changed("short", Reason.SIZE, lambda film: replace(film, tamper=lambda content: content[:-100])),
            _changed("half-copied", Reason.MISSING, lambda film: replace(film, tamper=lambda _: None)),
            _changed("modality", Reason.MODALITY, lambda film: replace(film, edit=_ultrasound)),
            _changed("bomb", Reason.TOO_LARGE, lambda film: replace(film, edit=_enlarge)),
            _changed("wrong-label", Reason.UNKNOWN_LABEL, lambda film: replace(film, label=WRONG_LABEL)),
            _changed("no-label", Reason.NO_LABEL, lambda film: replace(film, label=None)),
        ]
    ),
}

FAULTS: tuple[str, ...] = tuple(FAULTS_BY_NAME)


def expected(fault: str) -> Reason | None:
    """Return the reason for which a fault's files are quarantined; None for a drop that is not complete."""
    return FAULTS_BY_NAME[fault].reason

"""What is said of each file of a drop: accepted, or quarantined for a reason that a program can read."""

import datetime
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Reason(StrEnum):
    """Why a file is quarantined."""

    MISSING = "missing"
    UNLISTED = "not-in-manifest"
    SIZE = "size"
    CHECKSUM = "checksum"
    TOO_LARGE = "too-large"
    UNREADABLE = "unreadable"
    MODALITY = "modality"
    PHOTOMETRIC = "photometric"
    NOT_DEIDENTIFIED = "not-deidentified"
    BURNED_IN = "burned-in"
    NO_PATIENT = "no-patient"
    NO_LABEL = "no-label"
    UNKNOWN_LABEL = "unknown-label"
    FROZEN_PATIENT = "patient-in-frozen-split"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near-duplicate"


class RefusedError(Exception):
    """A file is quarantined: for which reason, with a detail as `Verdict` has it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An accepted image: nothing of it names a person.

    `sample_id` and `patient_id` are keyed hashes, `label` is the number of the class, `pixels` are uint8
    [channels, height, width], `sha256` is their `pixel_hash`, `phash` a perceptual hash in hexadecimal.
    """

    sample_id: str
    patient_id: str
    acquired_at: datetime.date | None
    label: int
    pixels: NDArray[np.uint8]
    sha256: str
    phash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of one file.

    `path` is as the manifest has it, and is for the sender's eyes alone. `detail` names attributes and
    limits, never a value that could identify somebody.
    """

    path: str
    reason: Reason | None = None
    detail: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the file gets in."""
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A file's verdict, and its image if it is accepted."""

    verdict: Verdict
    image: Image | None = None

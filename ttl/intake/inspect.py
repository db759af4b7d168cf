"""What can be said of one file by itself, in a process of its own: from bytes to an image, or a reason."""

import datetime
import hashlib
import io
import signal
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps

from ttl.bucket import Bucket
from ttl.data.dataset import pixel_hash
from ttl.data.images import DAMAGED, DEEP_MODES, fit_pixels, is_dicom
from ttl.intake import burned, dicom
from ttl.intake.drop import PATIENCE, Label, Listed
from ttl.intake.identity import Pseudonyms, is_dummy
from ttl.intake.similar import phash
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Checked, Image, Reason, RefusedError, Verdict
from ttl.processes import die_with

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000")
"""Of plain images; other readers of Pillow's are not let at what came from outside."""


@dataclass(frozen=True, kw_only=True)
class Inspector:
    """All that is needed to inspect the files of one drop; it goes to each process once.

    `address` is the drop's, and `place` its `<site>/<drop>`.
    """

    address: str
    place: str
    spec: IntakeSpec
    pseudonyms: Pseudonyms

    @cached_property
    def bucket(self) -> Bucket:
        """The drop's files, for this process."""
        return Bucket(self.address, patience=PATIENCE, private=True)

    def look(self, listed: Listed, label: Label | None) -> Checked:
        """Read one file and inspect it. Raises `ServiceError` if the storage does not answer."""
        try:
            data = self.bucket.read_start(listed.path, listed.size + 1) if listed.size else b""
        except FileNotFoundError:
            return _refused(listed.path, Reason.MISSING, "it is not there any more")
        return self.inspect(data, listed, label)

    def inspect(self, data: bytes, listed: Listed, label: Label | None) -> Checked:
        """Return the verdict on a file's content; nothing of it is compared with other files."""
        try:
            return Checked(verdict=Verdict(path=listed.path), image=self._image(data, listed, label))
        except RefusedError as refused:
            return _refused(listed.path, refused.reason, refused.detail)

    def _image(self, data: bytes, listed: Listed, label: Label | None) -> Image:
        if len(data) != listed.size:
            raise RefusedError(Reason.SIZE, f"the manifest says {listed.size:,} bytes, it has others")
        if hashlib.sha256(data).hexdigest() != listed.sha256:
            raise RefusedError(Reason.CHECKSUM, "its SHA-256 is not the one in the manifest")
        spec = self.spec
        taken = dicom.read(data, spec) if is_dicom(data) else _read_plain(data, spec)
        if why := burned.seen(taken.pixels):
            raise RefusedError(Reason.BURNED_IN, why)
        patient = _patient(taken.patient_id, label)
        number = _number(label, spec)
        size = (spec.size, spec.size)
        pixels = fit_pixels(taken.pixels, channels=spec.channels, size=size, fit=spec.fit)
        return Image(
            sample_id=self.pseudonyms.of("file", f"{self.place}/{listed.path}/{listed.sha256}"),
            patient_id=self.pseudonyms.of_patient(
                patient, None if spec.patient_ids == "shared" else self.place.partition("/")[0]
            ),
            acquired_at=taken.acquired_at or (label.acquired_at if label else None),
            label=number,
            pixels=pixels,
            sha256=pixel_hash(pixels),
            phash=phash(pixels),
        )


Task = tuple[Listed, Label | None]

_here: list[Inspector] = []
"""In a process that inspects: with what."""


def start(inspector: Inspector, parent: int) -> None:
    """Make this process one that inspects, for as long as its parent lives."""
    die_with(parent)
    _here[:] = [inspector]


def look_at(tasks: list[Task]) -> list[Checked]:
    """Inspect some files, in a process that was started with `start`.

    A file that takes too long ends the process: a decoder that hangs in C heeds nothing less.
    """
    inspector, found = _here[0], []
    for listed, label in tasks:
        signal.alarm(inspector.spec.seconds)
        found.append(inspector.look(listed, label))
        signal.alarm(0)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain:
    pixels: NDArray[np.uint8]
    patient_id: str = ""
    acquired_at: datetime.date | None = None


def _read_plain(data: bytes, spec: IntakeSpec) -> _Plain:
    """Return the pixels of a plain image, uint8 [h, w] or [h, w, 3]. Nothing else of the file is kept."""
    try:
        with Picture.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > spec.max_pixels:
                raise RefusedError(
                    Reason.TOO_LARGE,
                    f"{image.width}×{image.height} pixels are more than the {spec.max_pixels:,} accepted",
                )
            if image.mode in DEEP_MODES:
                raise RefusedError(
                    Reason.PHOTOMETRIC,
                    "its pixels are deeper than 8 bits; send DICOM, which says their window",
                )
            if getattr(image, "n_frames", 1) > 1:
                raise RefusedError(Reason.UNREADABLE, "it has several frames; send one image a file")
            upright = ImageOps.exif_transpose(image)
            grey = upright.mode in ("1", "L", "LA")
            return _Plain(pixels=np.asarray(upright.convert("L" if grey else "RGB")))
    except (*DAMAGED, Picture.DecompressionBombError, MemoryError) as error:
        raise RefusedError(
            Reason.UNREADABLE, f"it is no DICOM file, nor an image that can be read ({type(error).__name__})"
        ) from None


def _patient(of_header: str, label: Label | None) -> str:
    of_table = (label.patient_id if label else None) or ""
    # `ANONYMOUS` is as many people as there are.
    of_header, of_table = ("" if is_dummy(text) else text for text in (of_header, of_table))
    if of_header and of_table and of_header != of_table:
        raise RefusedError(Reason.NO_PATIENT, "PatientID and labels.csv name different patients")
    if not (of_header or of_table):
        raise RefusedError(Reason.NO_PATIENT, "neither PatientID nor labels.csv names the patient")
    return of_header or of_table


def _number(label: Label | None, spec: IntakeSpec) -> int:
    if label is None or not label.label:
        raise RefusedError(Reason.NO_LABEL, "labels.csv gives it no label")
    if label.label not in spec.classes:
        raise RefusedError(Reason.UNKNOWN_LABEL, f"its label is none of: {', '.join(spec.classes)}")
    return spec.classes.index(label.label)


def _refused(path: str, reason: Reason, detail: str) -> Checked:
    return Checked(verdict=Verdict(path=path, reason=reason, detail=detail))

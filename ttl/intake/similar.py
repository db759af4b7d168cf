"""Whether an image is there already: the same pixels, or nearly, under another patient's name."""

import tempfile
from collections.abc import Mapping

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from ttl.data.dataset import PackedDataset
from ttl.intake.received import phashes
from ttl.intake.verdict import Image, Reason

HASH_SIZE = 16
WORDS = HASH_SIZE * HASH_SIZE // 64
THUMBNAIL = 64
ALIKE = 0.96
"""Two thumbnails whose details correlate more than this show the same."""
DETAILS = (1.0, 4.0)
"""From this grain to that, in pixels of a thumbnail: finer is noise, and coarser what all bodies share."""

FROZEN = "test"

Words = NDArray[np.uint64]
Thumbnail = NDArray[np.uint8]


def phash(pixels: NDArray[np.uint8]) -> str:
    """Return the perceptual hash of an image, uint8 [c, h, w]: 256 bits, in hexadecimal."""
    return str(imagehash.phash(_picture(pixels), hash_size=HASH_SIZE))


class Known:
    """The images that are there, and those that were added since: what a new one is compared with."""

    def __init__(self) -> None:
        self.count = 0
        self.hashes: Words = np.zeros((1024, WORDS), dtype=np.uint64)
        self.patients: list[str | None] = []
        self.numbers: dict[str, int] = {}
        self.owners: NDArray[np.int64] = np.zeros(1024, dtype=np.int64)
        self.pixels: set[bytes] = set()
        self.splits: dict[str, str] = {}
        self.dataset: PackedDataset | None = None
        # What is added grows with the drop, and memory must not.
        self.thumbnails = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the object

    @classmethod
    def of(cls, dataset: PackedDataset | None) -> "Known":
        """Return what is known of a dataset, nothing if there is none.

        Samples that came in no drop are hashed from their pixels.
        """
        known = cls()
        if dataset is None:
            return known
        known.dataset = dataset
        recorded: Mapping[str, str] = dict(phashes(dataset.root).iter_rows())
        columns = dataset.samples.select("sample_id", "patient_id", "split", "sha256")
        for row, (sample, patient, split, sha256) in enumerate(columns.iter_rows()):
            hashed = recorded.get(sample) or phash(dataset.read(np.array([row]))[0])
            known._append(sha256, hashed, patient)
            if patient is not None:
                known.splits[patient] = split
        return known

    def against(self, image: Image, *, near: int) -> tuple[Reason, str] | None:
        """Return why an image must not get in beside what is known, None if it may.

        `near` is the number of bits of 256 in which the hashes of two images that show the same may differ.
        """
        if self.splits.get(image.patient_id) == FROZEN:
            return Reason.FROZEN_PATIENT, f"the patient is in the split {FROZEN}, which is frozen"
        if bytes.fromhex(image.sha256) in self.pixels:
            return Reason.DUPLICATE, "the same pixels are there already"
        words = _words(image.phash)
        distances = np.bitwise_count(self.hashes[: self.count] ^ words).sum(axis=1)
        others = self.owners[: self.count] != self.numbers.get(image.patient_id, -1)
        close = np.flatnonzero((distances <= near) & others)
        if len(close):
            mine = thumbnail(image.pixels)
            for row in close[np.argsort(distances[close], kind="stable")]:
                if likeness(mine, self._thumbnail(int(row))) > ALIKE:
                    return (
                        Reason.NEAR_DUPLICATE,
                        f"another patient has nearly the same image ({distances[row]} of 256 bits differ)",
                    )
        return None

    def add(self, image: Image) -> None:
        """Add an image that was accepted."""
        self.thumbnails.seek(0, 2)
        self.thumbnails.write(thumbnail(image.pixels).tobytes())
        self._append(image.sha256, image.phash, image.patient_id)

    def _append(self, sha256: str, hashed: str, patient: str | None) -> None:
        if self.count == len(self.hashes):
            self.hashes = np.concatenate([self.hashes, np.zeros_like(self.hashes)])
            self.owners = np.concatenate([self.owners, np.zeros_like(self.owners)])
        self.hashes[self.count] = _words(hashed)
        # Of images without a patient nobody knows whose they are.
        self.owners[self.count] = (
            -2 if patient is None else self.numbers.setdefault(patient, len(self.numbers))
        )
        self.pixels.add(bytes.fromhex(sha256))
        self.count += 1

    def _thumbnail(self, row: int) -> Thumbnail:
        there = 0 if self.dataset is None else self.dataset.samples.height
        if self.dataset is not None and row < there:
            return thumbnail(self.dataset.read(np.array([row]))[0])
        self.thumbnails.seek((row - there) * THUMBNAIL * THUMBNAIL)
        data = self.thumbnails.read(THUMBNAIL * THUMBNAIL)
        return np.frombuffer(data, dtype=np.uint8).reshape(THUMBNAIL, THUMBNAIL)


def thumbnail(pixels: NDArray[np.uint8]) -> Thumbnail:
    """Return a small grey image, uint8 [64, 64], of one, uint8 [c, h, w]."""
    return np.asarray(_picture(pixels).resize((THUMBNAIL, THUMBNAIL), Picture.Resampling.BOX))


def likeness(one: Thumbnail, other: Thumbnail) -> float:
    """Return the correlation of two images' details; 1 if neither has any, 0 if one has none."""
    a, b = (_details(thumbnail).ravel() for thumbnail in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return float(not a.any() and not b.any())
    return float(a @ b) / scale


def _details(small: Thumbnail) -> NDArray[np.float64]:
    values = small.astype(np.float64)
    fine, coarse = (gaussian_filter(values, grain) for grain in DETAILS)
    details = np.asarray(fine - coarse)
    return details - details.mean() if np.ptp(small) else np.zeros_like(details)


def _picture(pixels: NDArray[np.uint8]) -> Picture.Image:
    if len(pixels) == 1:
        return Picture.fromarray(pixels[0])
    return Picture.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L")


def _words(hashed: str) -> Words:
    return np.frombuffer(bytes.fromhex(hashed), dtype=np.uint64)

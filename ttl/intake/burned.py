"""Whether an image has writing in its pixels: by what its header says, and by what can be seen."""

from collections.abc import Iterator

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

WHITES = (225, 180)
"""Writing is looked for at these levels: thin strokes are greyer, and anatomy grows into the letters."""
BLACK = 55
LETTERS = 5
LEAST, MOST = 5, 1 / 12
"""The height of letters: pixels at least, and a share of the image's height at most."""
SMALL = 0.65
"""A small letter's share of a capital's height."""
GAP = 1.0
"""Between letters, in heights."""
MARGIN = 8
CONTRAST = 60
"""Of the letters with what is between them, in grey levels."""
EDGES = 3
"""Pixels of a letter, in one row, across which the image jumps."""
_NEIGHBOURS = np.ones((3, 3), dtype=int)

AT_RISK = (
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.6",  # ultrasound
    "1.2.840.10008.5.1.4.1.1.3",  # ultrasound, several frames
    "1.2.840.10008.5.1.4.1.1.77",  # visible light
    "1.2.840.10008.5.1.4.1.1.104",  # encapsulated documents
)
"""Kinds of images (SOP classes, and those under them) that often have the patient's name in their pixels."""


def declared(dataset: pydicom.Dataset) -> str:
    """Return why a header makes one suspect writing in the pixels, or nothing."""
    says = str(dataset.get("BurnedInAnnotation") or "").strip().upper()
    if says == "YES":
        return "BurnedInAnnotation is YES"
    if says == "NO":
        return ""
    kind = str(dataset.get("SOPClassUID") or "")
    if any(kind == one or kind.startswith(f"{one}.") for one in AT_RISK):
        return "BurnedInAnnotation is not NO, for a kind of image that often has writing"
    if dataset.get("Modality") in ("US", "ES", "XC", "OT", "SC"):
        return "BurnedInAnnotation is not NO, for a modality that often has writing"
    image_type = dataset.get("ImageType") or ()
    if not isinstance(image_type, str) and "SECONDARY" in list(image_type)[:2]:
        return "BurnedInAnnotation is not NO, for a SECONDARY image"
    return ""


def suspected(pixels: NDArray[np.uint8], dataset: pydicom.Dataset | None = None) -> str:
    """Return why an image, uint8 [h, w] or [h, w, 3], is suspected to have writing in it, or nothing."""
    return (declared(dataset) if dataset is not None else "") or seen(pixels)


def seen(pixels: NDArray[np.uint8]) -> str:
    """Return what looks like a line of writing in an image, uint8 [h, w] or [h, w, 3], or nothing.

    Writing is a row of shapes, white or black, that stand on one line, each about as high as the next and
    a little apart. Upright anatomy with sharp edges seldom has five in a row. Black is looked for where the
    ground is not black itself.
    """
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    most = max(24, round(MOST * len(grey)))
    black = bool(np.median(grey[::4, ::4]) > BLACK)
    for top, bottom in _bands(grey):
        band = grey[top:bottom]
        if any(_has_line(band, band >= white, most) for white in WHITES):
            return "there is what looks like a line of white writing in the pixels"
        if black and _has_line(band, band <= BLACK, most):
            return "there is what looks like a line of black writing in the pixels"
    return ""


def _bands(grey: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return (first, past the last) of the groups of rows that have as many sharp edges as letters do."""
    left, right = grey[:, :-2], grey[:, 2:]
    jumps = np.maximum(left, right) - np.minimum(left, right) >= CONTRAST
    busy = np.count_nonzero(jumps, axis=1) >= EDGES * LETTERS
    near = ndimage.maximum_filter1d(busy.astype(np.int8), 2 * MARGIN + 1, mode="constant")
    changes = np.flatnonzero(np.diff(near, prepend=0, append=0)).tolist()
    return list(zip(changes[::2], changes[1::2], strict=True))


def _has_line(grey: NDArray[np.uint8], ink: NDArray[np.bool_], most: int) -> bool:
    """Return whether an image [h, w] has a line of writing in a mask [h, w] of its own."""
    letters = _shapes(ink, most)
    return len(letters) >= LETTERS and any(_stands_out(grey, ink, row) for row in _rows(letters))


def _shapes(ink: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """Return (bottom, left, height, width) of the connected shapes in a mask that letters may have."""
    labels, _ = ndimage.label(ink, structure=_NEIGHBOURS)
    places = np.flatnonzero(ink)
    number = labels.ravel()[places]
    areas = np.bincount(number, minlength=1)
    # Boxes are found for few: neither for grain nor for bones.
    of_interest = (areas >= LEAST) & (areas <= most * most / 2)
    places, number = places[of_interest[number]], number[of_interest[number]]
    if not len(places):
        return np.zeros((0, 4), dtype=np.int64)
    order = np.argsort(number, kind="stable")
    number = number[order]
    y, x = np.divmod(places[order], ink.shape[1])
    first = np.flatnonzero(np.diff(number, prepend=0))
    bottom, left = np.maximum.reduceat(y, first) + 1, np.minimum.reduceat(x, first)
    height, width = bottom - np.minimum.reduceat(y, first), np.maximum.reduceat(x, first) + 1 - left
    fill = areas[number[first]] / (height * width)
    like = (height >= LEAST) & (height <= most) & (width <= 1.6 * height) & (fill >= 0.12)
    return np.asarray(np.stack([bottom, left, height, width], axis=1)[like])


def _rows(letters: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the shapes (bottom, left, height, width) that stand side by side on one line, if enough do."""
    letters = letters[np.argsort(letters[:, 1], kind="stable")]
    for bottom, height in np.unique(letters[:, [0, 2]], axis=0):
        slack = max(1, round(0.08 * height))
        row = letters[
            (np.abs(letters[:, 0] - bottom) <= slack)
            & (letters[:, 2] <= height + slack)
            & (letters[:, 2] >= SMALL * height - 1)
        ]
        if len(row) < LETTERS:
            continue
        gaps = row[1:, 1] - row[:-1, 1] - row[:-1, 3]
        breaks = np.flatnonzero((gaps < -1) | (gaps > GAP * height)) + 1
        yield from (part for part in np.split(row, breaks) if len(part) >= LETTERS)


def _stands_out(grey: NDArray[np.uint8], ink: NDArray[np.bool_], row: NDArray[np.int64]) -> bool:
    """Return whether a row of shapes differs from its ground as writing does, and grain does not."""
    top, bottom = (row[:, 0] - row[:, 2]).min(), row[:, 0].max()
    place = slice(max(0, top - 1), bottom + 1), slice(max(0, row[0, 1] - 1), row[-1, 1] + row[-1, 3] + 1)
    here, written = grey[place], ink[place]
    return bool(abs(here[written].mean() - here[~written].mean()) >= CONTRAST)

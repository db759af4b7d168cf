"""Radiographs as PNG files of a DICOM image's stored values, with its tags beside them as JSON."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ttl.data.images import DAMAGED, DEEP_MODES, MAX_PIXELS, Fit, fit_to
from ttl.errors import DataError

KINDS = {
    "00080020": "DA",  # study date
    "00280004": "CS",  # photometric interpretation
    "00281050": "DS",  # window centre
    "00281051": "DS",  # window width
    "00281052": "DS",  # rescale intercept
    "00281053": "DS",  # rescale slope
    "00281056": "CS",  # VOI LUT function
    "00283010": "SQ",  # VOI LUT sequence
    "00283002": "US",  # LUT descriptor
    "00283006": "US",  # LUT data
}
"""The tags that are used, by group and element, and the standard's type of each."""

PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
BITS = 16

Tags = dict[str, list[Any]]


def read_tags(path: Path) -> Tags:
    """Return the values of the tags that are used and given: `{"00280004": {"Value": ["MONOCHROME2"]}, …}`.

    Raises `DataError` for a file that is missing or is not of that form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {tag: content[tag]["Value"] for tag in KINDS if "Value" in content.get(tag, {})}
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: the tags of the image are missing") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name}: the tags of the image cannot be read: {error}") from error
    return {tag: values for tag, values in found.items() if isinstance(values, list) and values}


def study_date(tags: Tags) -> datetime.date | None:
    """Return when the image was taken. Raises `DataError` for what is no date of DICOM."""
    if "00080020" not in tags:
        return None
    text = str(tags["00080020"][0])
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()
    except ValueError as error:
        raise DataError(f"its study date is {text!r}; it must be as 20200131") from error


def read_stored(
    path: Path, tags: Tags, *, channels: int, size: tuple[int, int], fit: Fit
) -> NDArray[np.uint8]:
    """Return a radiograph as uint8 [channels, height, width], at `size` (height, width).

    Values deeper than 8 bits go through the image's rescaling and then its VOI LUT, or without one its
    window, the first if it has several; an image with neither takes the whole range of its values. Those of
    8 bits are taken as they are. MONOCHROME1 is inverted. Raises `DataError` naming the file.
    """
    photometric = str(tags.get("00280004", ["missing"])[0])
    if photometric not in PHOTOMETRIC:
        raise DataError(f"{path.name}: its photometric interpretation is {photometric}; none is known of it")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path.name}: more than the {MAX_PIXELS:,} pixels accepted")
            deep = image.mode in DEEP_MODES
            values = np.asarray(image if deep else image.convert("L"))
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: the image is missing") from error
    except DAMAGED as error:
        raise DataError(f"{path.name}: the image cannot be read: {error}") from error
    grey = _to_8_bits(values, tags, path) if deep else values
    upright = Image.fromarray(255 - grey if photometric == "MONOCHROME1" else grey)
    return fit_to(upright if channels == 1 else upright.convert("RGB"), size, fit)


def _to_8_bits(values: NDArray[np.generic], tags: Tags, path: Path) -> NDArray[np.uint8]:
    """Return stored values as 8 bits: a table of those between the least and the greatest, looked up."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << BITS:
        raise DataError(f"{path.name}: its values lie from {low} to {high}; they must be of {BITS} bits")
    try:
        shares = _shares(np.arange(low, high + 1), tags)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(f"{path.name}: its window or its VOI LUT cannot be used: {error}") from error
    table = np.asarray(np.clip(shares, 0, 1) * 255.999, dtype=np.uint8)
    return table[values.astype(np.int64) - low]


def _shares(stored: NDArray[np.int64], tags: Tags) -> NDArray[np.float64]:
    """Return the share of white, 0 to 1 where it is inside of the window, of each stored value."""
    from pydicom import Dataset  # noqa: PLC0415 - needed for this source alone
    from pydicom.pixels.processing import apply_rescale, apply_voi, apply_windowing  # noqa: PLC0415

    dataset = Dataset.from_json({tag: _typed(tag, values) for tag, values in tags.items()})
    scaled = np.asarray(apply_rescale(stored, dataset), dtype=np.float64)
    for name in ("RescaleSlope", "RescaleIntercept"):
        dataset.pop(name, None)
    dataset.BitsStored, dataset.PixelRepresentation = BITS, 0
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return np.asarray(apply_voi(np.rint(scaled).astype(np.int64), dataset) / (2.0**bits - 1))
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        return np.asarray(apply_windowing(scaled, dataset) / (2.0**BITS - 1))
    low, high = scaled.min(), scaled.max()
    return (scaled - low) / (high - low) if high > low else np.zeros_like(scaled)


def _typed(tag: str, values: list[Any]) -> dict[str, Any]:
    """Return an element as DICOM's JSON model has it, whatever the type it was written with."""
    if KINDS[tag] == "SQ":
        values = [
            {inner: _typed(inner, item[inner]["Value"]) for inner in KINDS if inner in item}
            for item in values
        ]
    return {"vr": KINDS[tag], "Value": values}

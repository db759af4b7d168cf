"""Reading one DICOM file: a de-identified header, and its image at 8 bits.

How the values become 8 bits: the modality's rescaling (slope and intercept, or its LUT) comes first; then,
where `window` is `voi`, the file's VOI LUT, or without one its window, the first if it has several, by the
function that it names (linear, linear exact, sigmoid). A file that has neither, and `window` `range`, take
the whole range of the image's values, padding aside; `centre` and `width` are a linear window for all. The
ends are black and white, what lies outside is clipped, and the rest is rounded down to one of 256 steps.
MONOCHROME1 is inverted then. Colour of 8 bits is taken as it is, YBR and palettes as the RGB they stand for.
"""

import datetime
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from ttl.data.images import DICOM_START, Windowing
from ttl.intake import burned, codestream
from ttl.intake.identity import problems
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Reason, RefusedError

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is kept of a file: `pixels`, uint8 [h, w] or [h, w, 3] as they were taken, and three facts.

    `patient_id` is the header's own, empty if it has none: it goes no further than the process that read it.
    """

    pixels: NDArray[np.uint8]
    patient_id: str
    acquired_at: datetime.date | None


def read(data: bytes, spec: IntakeSpec) -> Reading:
    """Return the image of a file's content.

    Raises `RefusedError` for whatever keeps it from getting in. The header is judged before its pixels are
    decoded, and no decoder is let at more than `spec.max_pixels`, or at other sizes than the header's. One
    image a file: several frames are refused.
    """
    with _opened(data, spec.max_bytes) as dataset:
        _check_header(dataset, spec)
        _check_image(dataset, spec.max_pixels)
        return Reading(
            pixels=_decode(dataset, spec.windowing),
            patient_id=str(dataset.get("PatientID") or "").strip(" \0"),
            acquired_at=_date(dataset),
        )


def read_pixels(data: bytes, windowing: Windowing, *, max_bytes: int, max_pixels: int) -> NDArray[np.uint8]:
    """Return a file's image as `read` does, uint8 [h, w] or [h, w, 3], whoever its header names.

    For a model's use where the patient is: nothing of the header is kept. Raises `RefusedError`.
    """
    with _opened(data, max_bytes) as dataset:
        _check_image(dataset, max_pixels)
        return _decode(dataset, windowing)


@contextmanager
def _opened(data: bytes, max_bytes: int) -> Iterator[pydicom.Dataset]:
    """Give a file's data set; whatever goes wrong with it meanwhile, the file is refused for."""
    with _quiet():
        try:
            yield pydicom.dcmread(io.BytesIO(_inflated(data, max_bytes)))
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a damaged file brings about, it is refused
            # The message may hold a value of the file.
            raise RefusedError(Reason.UNREADABLE, f"it cannot be read ({type(error).__name__})") from None


def _inflated(data: bytes, limit: int) -> bytes:
    """Return a file's content, where its data set is deflated as one that is not."""
    file = io.BytesIO(data)
    file.seek(DICOM_START)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return data
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[file.tell() :], limit + 1)
    if len(body) > limit:
        raise RefusedError(Reason.TOO_LARGE, f"it unpacks to more than the {limit:,} bytes accepted")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    write_file_meta_info(head, pydicom.dataset.FileMetaDataset(meta), enforce_standard=False)
    return data[:DICOM_START] + head.getvalue() + body


def _check_header(dataset: pydicom.Dataset, spec: IntakeSpec) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality not in spec.modalities:
        # A value that is no code of the standard could be anything.
        raise RefusedError(Reason.MODALITY, f"Modality is not one of {', '.join(spec.modalities)}")
    if found := problems(dataset):
        raise RefusedError(Reason.NOT_DEIDENTIFIED, _listed(found))
    if why := burned.declared(dataset):
        raise RefusedError(Reason.BURNED_IN, why)


def _check_image(dataset: pydicom.Dataset, max_pixels: int) -> None:
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if photometric not in (*GREY, *COLOUR):
        raise RefusedError(Reason.PHOTOMETRIC, "PhotometricInterpretation is none of those that can be read")
    if "PixelData" not in dataset:
        raise RefusedError(Reason.UNREADABLE, "it has no PixelData")
    frames, rows, columns = (int(dataset.get(name) or 0) for name in ("NumberOfFrames", "Rows", "Columns"))
    if frames > 1:
        raise RefusedError(Reason.UNREADABLE, f"it has {frames} frames; send one image a file")
    if rows < 1 or columns < 1:
        raise RefusedError(Reason.UNREADABLE, "Rows or Columns is missing")
    if rows * columns > max_pixels:
        raise RefusedError(
            Reason.TOO_LARGE, f"{columns}×{rows} pixels are more than the {max_pixels:,} accepted"
        )
    bits = int(dataset.get("BitsAllocated") or 0)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if bits not in (8, 16, 32) or samples not in (1, 3) or (samples == 3 and bits != 8):
        raise RefusedError(Reason.PHOTOMETRIC, f"{samples} samples of {bits} bits a pixel cannot be read")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_frame(dataset, rows, columns, samples * bits // 8)


def _check_frame(dataset: pydicom.Dataset, rows: int, columns: int, depth: int) -> None:
    frame = codestream.encoded_frame(dataset.PixelData)
    raw = rows * columns * depth
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        # Each line may end in a byte that fills it up.
        if not codestream.unpacks_within(frame, raw + rows * depth + 128):
            raise RefusedError(Reason.UNREADABLE, "its run lengths do not unpack to Rows × Columns")
    elif codestream.stated_size(frame) != (rows, columns):
        raise RefusedError(Reason.UNREADABLE, "its codestream is not of Rows × Columns")


def _decode(dataset: pydicom.Dataset, windowing: Windowing) -> NDArray[np.uint8]:
    photometric = dataset.PhotometricInterpretation
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _silence_gdcm()
    if photometric not in GREY:
        colours = pixel_array(dataset, index=0)
        if photometric == "PALETTE COLOR":
            wide = apply_color_lut(colours, dataset)
            colours = wide >> 8 if wide.dtype.itemsize > 1 else wide
        return np.asarray(colours, dtype=np.uint8)
    values = pixel_array(dataset, index=0)
    grey = _to_8_bits(values, dataset, windowing)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _to_8_bits(
    values: NDArray[np.generic], dataset: pydicom.Dataset, windowing: Windowing
) -> NDArray[np.uint8]:
    """Return stored values as 8 bits: a table of all values between the least and the greatest, looked up."""
    low, high = int(values.min()), int(values.max())
    if high - low > 1 << 20:
        distinct, places = np.unique(values, return_inverse=True)
        return _window(distinct, distinct, dataset, windowing)[places].reshape(values.shape)
    table = np.arange(low, high + 1, dtype=np.int64)
    return _window(table, values, dataset, windowing)[values.astype(np.int64) - low]


def _window(
    table: NDArray[np.int64], values: NDArray[np.generic], dataset: pydicom.Dataset, windowing: Windowing
) -> NDArray[np.uint8]:
    """Return the 8 bits of each stored value of `table`, ascending, for an image of `values`."""
    scaled = np.asarray(apply_modality_lut(table, dataset), dtype=np.float64)
    if not np.isfinite(scaled).all():
        raise RefusedError(Reason.UNREADABLE, "its rescaling gives values that are not finite")
    if not isinstance(windowing, str):
        shares = _through_window(scaled, _fixed(dataset, *windowing))
    elif windowing == "voi" and dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        shares = apply_voi(np.rint(scaled).astype(np.int64), dataset).astype(np.float64) / (2**bits - 1)
    elif windowing == "voi" and "WindowCenter" in dataset and "WindowWidth" in dataset:
        shares = _through_window(scaled, dataset)
    else:
        inside = (
            scaled[np.isin(table, _unpadded(values, dataset))] if "PixelPaddingValue" in dataset else scaled
        )
        low, high = inside.min(), inside.max()
        shares = (scaled - low) / (high - low) if high > low else np.zeros_like(scaled)
    return np.asarray(np.clip(shares, 0, 1) * 255.999, dtype=np.uint8)


def _through_window(scaled: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """Return shares from black to white. What the window makes of both ends says what these are."""
    ends = np.array([-1e12, 1e12])
    with np.errstate(over="ignore"):
        out = apply_windowing(np.concatenate([scaled, ends]), dataset)
    black, white = out[-2:]
    return np.asarray((out[:-2] - black) / (white - black))


def _fixed(dataset: pydicom.Dataset, centre: float, width: float) -> pydicom.Dataset:
    window = pydicom.Dataset()
    for keyword in ("PhotometricInterpretation", "BitsStored", "PixelRepresentation"):
        setattr(window, keyword, dataset[keyword].value)
    window.WindowCenter, window.WindowWidth = centre, width
    return window


def _unpadded(values: NDArray[np.generic], dataset: pydicom.Dataset) -> NDArray[np.generic]:
    """Return the distinct values that are not padding; all of them if padding is all there is."""
    distinct = np.unique(values)
    padding = int(dataset.PixelPaddingValue)
    limit = int(dataset.get("PixelPaddingRangeLimit", padding))
    kept = distinct[(distinct < min(padding, limit)) | (distinct > max(padding, limit))]
    return kept if len(kept) else distinct


def _date(dataset: pydicom.Dataset) -> datetime.date | None:
    for keyword in ("AcquisitionDate", "AcquisitionDateTime", "StudyDate"):
        try:
            day = datetime.datetime.strptime(str(dataset.get(keyword) or "")[:8], "%Y%m%d").date()
        except ValueError:
            continue
        # Days such as the first of 1900 stand for none.
        if day.year > 1900 and day.year < 9999:
            return day
    return None


def _listed(names: list[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"not empty, no dummy, kept by no declared option: {', '.join(names[:shown])}{more}"


def _silence_gdcm() -> None:
    import gdcm  # type: ignore[import-untyped]  # noqa: PLC0415 - few files are compressed

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom from telling anybody what is in a file."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled, config.settings.reading_validation_mode
    logger.disabled, config.settings.reading_validation_mode = True, config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled, config.settings.reading_validation_mode = before

"""Reading one image file into the pixels that a dataset holds."""

import io
import struct
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ttl.errors import DataError

Fit = Literal["pad", "crop", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

Window = Literal["voi", "range"]
Windowing = Window | tuple[float, float]
"""How a DICOM file's values become 8 bits (see `ttl.intake.dicom`); a pair is a window's centre and width."""

DICOM_START = 132
"""Bytes at whose end a DICOM file says that it is one."""

MAX_PIXELS = 200_000_000
"""A larger image is refused: a small file can unpack to more than the memory holds."""

DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError, struct.error)
"""What Pillow's readers raise for damaged files, besides its own `UnidentifiedImageError`, an `OSError`."""

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


def read_image(
    source: Path | bytes, *, name: str, channels: int, size: tuple[int, int], fit: Fit
) -> NDArray[np.uint8]:
    """Return an image as uint8 [channels, height, width], at `size` (height, width).

    `channels` is 1 for grey, 3 for colour. `fit` says how another shape is brought to `size`: `pad` keeps
    all of the image between black bars, `crop` fills the frame and cuts off the centre's surroundings,
    `stretch` changes the proportions. The camera's orientation tag is applied. Raises `DataError` naming
    `name` for a file that is missing, damaged, too large, or deeper than 8 bits (whose window must be chosen
    by whoever knows the modality).
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{name}: {image.width}×{image.height} pixels are more than the {MAX_PIXELS:,} accepted"
                )
            if image.mode in DEEP_MODES:
                raise DataError(
                    f"{name}: its pixels are deeper than 8 bits (mode {image.mode}); "
                    "window it to 8 bits first, for how is a question of the modality"
                )
            upright = ImageOps.exif_transpose(image)
            return fit_to(upright.convert("L" if channels == 1 else "RGB"), size, fit)
    except FileNotFoundError as error:
        raise DataError(f"{name}: the image is missing") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}") from error
    except DAMAGED as error:
        known = "PNG, JPEG, TIFF, BMP and WebP can; DICOM in drops, and by models that were trained on drops"
        raise DataError(f"{name}: the image cannot be read: {error} ({known})") from error


def is_dicom(data: bytes) -> bool:
    """Return whether a file's content begins as a DICOM file must."""
    return data[:DICOM_START][128:] == b"DICM"


def fit_pixels(
    pixels: NDArray[np.uint8], *, channels: int, size: tuple[int, int], fit: Fit
) -> NDArray[np.uint8]:
    """Return pixels, uint8 [h, w] or [h, w, 3], as `read_image` returns those of a file."""
    return fit_to(Image.fromarray(pixels).convert("L" if channels == 1 else "RGB"), size, fit)


def fit_to(image: Image.Image, size: tuple[int, int], fit: Fit) -> NDArray[np.uint8]:
    """Return the image's pixels, uint8 [channels, height, width], fitted to `size` (height, width)."""
    height, width = size
    if image.size != (width, height):
        if fit == "pad":
            image = ImageOps.pad(image, (width, height), Image.Resampling.BICUBIC)
        elif fit == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        else:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))

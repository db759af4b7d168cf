"""Cutting patches out of large images, without reading the whole where its file allows that."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from ttl.data.images import DAMAGED, MAX_PIXELS
from ttl.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """An opened image: its pixels, uint8 [height, width, 3], and whether they are mapped, not in memory."""

    pixels: NDArray[np.uint8]
    mapped: bool

    @property
    def extent(self) -> tuple[int, int]:
        """The width and the height."""
        height, width, _ = self.pixels.shape
        return width, height

    def cut(self, left: int, top: int, side: int) -> NDArray[np.uint8]:
        """Return a square, uint8 [side, side, 3]."""
        return np.array(self.pixels[top : top + side, left : left + side])


def open_regions(path: Path) -> Regions:
    """Open an image to cut squares out of it.

    An uncompressed TIFF whose rows lie one after the other is mapped: only the pages of a patch are read. Any
    other image is decoded, whole, at 7 bytes a pixel while that lasts, 3 from then on. Raises `DataError` for
    a file that is missing or damaged, or has more pixels than are accepted.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path.name}: {image.width}×{image.height} pixels are more than the {MAX_PIXELS:,} "
                    "accepted"
                )
            mapped = _mapped(image, path)
            pixels = np.asarray(image.convert("RGB")) if mapped is None else mapped
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: the image is missing") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name}: the image cannot be read: {error}") from error
    return Regions(pixels=pixels, mapped=mapped is not None)


def _mapped(image: Image.Image, path: Path) -> NDArray[np.uint8] | None:
    """Return the pixels of a TIFF in place, or nothing where they do not lie there as rows of RGB."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode != "RGB":
        return None
    tags = image.tag_v2
    uncompressed = tags.get(TiffImagePlugin.COMPRESSION, 1) == 1
    interleaved = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 1
    eight_bits = tuple(tags.get(TiffImagePlugin.BITSPERSAMPLE, ())) == (8, 8, 8)
    offsets = tuple(tags.get(TiffImagePlugin.STRIPOFFSETS, ()))
    lengths = tuple(tags.get(TiffImagePlugin.STRIPBYTECOUNTS, ()))
    if not (uncompressed and interleaved and eight_bits and offsets and len(offsets) == len(lengths)):
        return None
    ends = [start + length for start, length in zip(offsets, lengths, strict=True)]
    shape = (image.height, image.width, 3)
    size = int(np.prod(shape))
    if list(offsets[1:]) != ends[:-1] or sum(lengths) != size or path.stat().st_size < ends[-1]:
        return None
    return np.memmap(path, dtype=np.uint8, mode="r", offset=offsets[0], shape=shape)

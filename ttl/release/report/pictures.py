"""Small pictures inside the page: pixels of the packed dataset, and files that other commands have drawn."""

import base64
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 160
"""Pixels of a picture's longer side at most: for recognising it, not for reading it."""

WIDEST = 1600
"""Pixels of a sheet's width at most."""


def thumbnail(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """Return pixels [c, h, w], or a volume's middle slice of [c, d, h, w], as a data URI of a PNG."""
    flat = pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels
    image = Image.fromarray(flat[0] if flat.shape[0] != 3 else np.moveaxis(flat, 0, -1))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(image, "PNG")


def sheet(path: Path, widest: int = WIDEST) -> tuple[str, int, int]:
    """Return a drawn picture as a data URI of a WebP, no wider than `widest`, with its width and height."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
    return _uri(image, "WEBP"), image.width, image.height


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 88, "method": 6}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def document(path: Path) -> tuple[str, int, int]:
    """Return an SVG file as a data URI, with its width and height: as an image it loads nothing."""
    text = path.read_text(encoding="utf-8")
    box = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', text)
    width, height = (round(float(one)) for one in box.groups()) if box else (640, 480)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}", width, height

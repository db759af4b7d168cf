"""The sheet of attention maps: one row an image, one column a strategy, drawn as a PNG."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ttl.evaluation.attention import HALF, by_chance

LIMIT = 1_000_000
"""Bytes that a sheet may take."""

SIDES = (168, 136, 104, 80)
"""Sides of a picture in pixels: the first with which the sheet is below the limit."""

STRONGEST = 0.6
"""How much of the picture the colour covers where a map has its maximum."""

GAP, MARGIN, LINE = 12, 20, 17
INK, MUTED, WRONG, PAPER = "#1b1f24", "#59616b", "#a3126b", "#fdfdfe"
KINDS = {"correct": "all are right", "disagreement": "ftl, ttl differ", "error": "confident error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of the dataset, uint8 [h, w, 3], and by strategy what the network was given and its map.

    The latter two are uint8 [s, s, 3] and float [s, s] in 0..1.
    """

    original: NDArray[np.uint8]
    views: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.float32]]]


def draw_sheet(values: Mapping[str, Any], pictures: Sequence[Picture]) -> bytes:
    """Return a PNG of at most `LIMIT` bytes, unless there are too many pictures even for small ones.

    `values` are those of `attention.json`; `pictures` are of its samples, in their order.
    """
    for side in SIDES:
        sheet = _draw(values, pictures, side)
        for image in (sheet, sheet.quantize(256, method=Image.Quantize.FASTOCTREE)):
            content = _png(image, values["alt"])
            if len(content) <= LIMIT:
                return content
    return content


def overlay(pixels: NDArray[np.uint8], heights: NDArray[np.float32], side: int) -> Image.Image:
    """Return a picture under its map: the higher, the brighter and the denser, with a line at half height."""
    picture = np.asarray(_resized(pixels, side), dtype=np.float32)
    wide = np.asarray(
        Image.fromarray(heights).resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32
    ).clip(0, 1)
    mixed = _coloured(picture, wide)
    inside = wide > HALF
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        edge |= inside & ~np.roll(inside, 1, axis) | inside & ~np.roll(inside, -1, axis)
    # What is rolled around the border is no edge.
    edge[[0, -1]] = edge[:, [0, -1]] = False
    mixed[edge] = 255
    return Image.fromarray(mixed.round().astype(np.uint8))


def _coloured(picture: NDArray[np.float32], heights: NDArray[np.float32]) -> NDArray[np.float64]:
    colours = np.asarray(matplotlib.colormaps["viridis"](heights))[..., :3] * 255
    cover = STRONGEST * heights[..., None]
    return np.asarray((1 - cover) * picture + cover * colours)


def _draw(values: Mapping[str, Any], pictures: Sequence[Picture], side: int) -> Image.Image:
    strategies = values["strategies"]
    width = 2 * MARGIN + (1 + len(strategies)) * (side + GAP) - GAP
    title = _wrapped(_title(values), width, 15)
    notes = [line for note in (_legend(values), *values["notes"]) for line in _wrapped(note, width, 12)]
    head = MARGIN + len(title) * (LINE + 3) + GAP
    top = head + 6 * LINE
    step = side + 2 * LINE + 10
    foot = top + len(pictures) * step
    sheet = Image.new("RGB", (width, foot + LINE * (len(notes) + 2) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        pen.text((MARGIN, MARGIN + number * (LINE + 3)), line, INK, _font(15, bold=True))
    lefts = [MARGIN + column * (side + GAP) for column in range(1 + len(strategies))]
    _lines(pen, (lefts[0], head), side, [("image", INK, True), ("as it is packed", MUTED, False)])
    for left, (name, one) in zip(lefts[1:], strategies.items(), strict=True):
        _lines(pen, (left, head), side, _heading(name, one))
    for number, (picture, sample) in enumerate(zip(pictures, values["samples"], strict=True)):
        y = top + number * step
        sheet.paste(_resized(picture.original, side), (lefts[0], y))
        about = [
            (sample["sample_id"], INK, False),
            (f"{sample['label']}: {KINDS[sample['kind']]}", MUTED, False),
        ]
        _lines(pen, (lefts[0], y + side + 2), side, about)
        for left, name in zip(lefts[1:], strategies, strict=True):
            sheet.paste(overlay(*picture.views[name], side), (left, y))
            _lines(pen, (left, y + side + 2), side, _caption(name, sample))
    _scale(sheet, pen, (MARGIN, foot + 4))
    for number, line in enumerate(notes):
        pen.text((MARGIN, foot + LINE * (number + 2)), line, INK, _font(12))
    return sheet


def _title(values: Mapping[str, Any]) -> str:
    target = values["target"] or "each image's own class"
    synthetic = " — SYNTHETIC images" if values["synthetic"] else ""
    network = f"{values['method']} of {values['backbone']}"
    return f"What speaks for {target}: {network}, {values['dataset']}{synthetic}"


def _heading(name: str, one: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    rows, columns = one["grid"]
    failed = one["explains"] is False
    return [
        (f"{name} {one['cut']}", INK, True),
        (f"map of {one['layer']}, {rows} × {columns}", MUTED, False),
        (f"area {_figure(one['area'])}, common {_figure(one['area_on_common_grid'])}", MUTED, False),
        (_random(one), WRONG if failed else MUTED, False),
        (_threshold(one["threshold"]), MUTED, False),
        ("explains nothing" if failed else "", WRONG, False),
    ]


def _random(one: Mapping[str, Any]) -> str:
    signed, absolute = (_figure(one[name]) for name in ("rank_correlation", "absolute_rank_correlation"))
    return f"random {absolute}, signed {signed}"


def _threshold(value: float | None) -> str:
    return "" if value is None else f"positive from P {value:.3f}"


def _legend(values: Mapping[str, Any]) -> str:
    return (
        "Area: share of the image above half of the map's maximum, mean of "
        f"{values['measured_images']} test images; common: of maps averaged to the coarsest grid. Random: "
        "rank correlation of the maps with those of the same network with random weights, mean magnitude and "
        f"signed mean. By magnitude: from {values['unchanged_from']} on the maps explain nothing; unlike "
        f"ones have {_chances(values)}."
    )


def _chances(values: Mapping[str, Any]) -> str:
    grids = sorted({tuple(one["grid"]) for one in values["strategies"].values()} - {(1, 1)})
    about = [f"about {by_chance(rows * columns):.2f} on {rows} × {columns}" for rows, columns in grids]
    return f"{', '.join(about)} positions" if about else "none on a single position"


def _caption(name: str, sample: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    right = sample["predicted"][name] == sample["label"]
    said = f"{'✓' if right else '✗'} {sample['predicted'][name]}"
    lines = [
        (f"P({sample['target']}) {sample['probabilities'][name]:.3f}", INK, False),
        (said, MUTED if right else WRONG, False),
    ]
    return [lines[0], (f"{said}, empty map", lines[1][1], False)] if name in sample["empty"] else lines


def _scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """Draw the colours from nothing to a map's maximum."""
    x, y = corner
    bar = np.linspace(0, 1, 120, dtype=np.float32)[None].repeat(11, axis=0)
    coloured = _coloured(np.full((*bar.shape, 3), 128, dtype=np.float32), bar)
    sheet.paste(Image.fromarray(coloured.astype(np.uint8)), (x, y + 3))
    text = "from nothing to each map's maximum; the line is at half of it"
    pen.text((x + 128, y), text, MUTED, _font(12))


def _lines(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, lines: Sequence[tuple[str, str, bool]]
) -> None:
    for number, (text, colour, bold) in enumerate(lines):
        font = _font(12, bold=bold)
        pen.text((corner[0], corner[1] + number * LINE), _fitted(text, font, width), colour, font)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text, its middle left out where it is too wide: both ends of an id may tell it apart."""
    shown = text
    while font.getlength(shown) > width and len(shown) > 3:
        keep = len(shown) - 2
        shown = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
    return shown


def _wrapped(text: str, width: int, size: int) -> list[str]:
    return textwrap.wrap(text, max(20, int((width - 2 * MARGIN) / (0.56 * size))))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _resized(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.BICUBIC)


def _png(image: Image.Image, alt: str) -> bytes:
    about = PngInfo()
    about.add_itxt("Description", alt)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, pnginfo=about)
    return file.getvalue()


@lru_cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Matplotlib carries a font that has most scripts: ids and classes may be in any.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)

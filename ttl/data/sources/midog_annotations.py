"""The annotations of MIDOG 2022: a JSON file in the manner of COCO, but with boxes given by two corners."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl.data.sources.archive import read_text
from ttl.data.sources.table import BadRowsError
from ttl.errors import DataError

CATEGORIES = {"hard negative": 0, "not mitotic figure": 0, "non-mitotic figure": 0, "mitotic figure": 1}
"""The class of each category, by its name in small letters."""

DOMAINS = (
    (1, 50, "human breast cancer, Hamamatsu XR"),
    (51, 100, "human breast cancer, Hamamatsu S360"),
    (101, 150, "human breast cancer, Aperio CS2"),
    (151, 194, "canine lung cancer, 3DHistech"),
    (195, 249, "canine lymphoma, 3DHistech"),
    (250, 299, "canine cutaneous mast cell tumor, Aperio CS2"),
    (300, 354, "human neuroendocrine tumor, Hamamatsu XR"),
    (355, 405, "human melanoma, Hamamatsu XR"),
)
"""First and last case, tumour type and scanner. The published file does not say them."""

TOLERANCE = 8
"""Pixels by which an annotation's centre may lie outside of its image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An annotation: its number, its class, and its centre in pixels of its image."""

    number: int
    label: int
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An annotated image: its file, its width and height, its tumour type and scanner, its annotations."""

    name: str
    extent: tuple[int, int]
    domain: str | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What a file says: its cases with annotations, how many have none, and the licences that it names."""

    cases: tuple[Case, ...]
    empty: int
    licences: tuple[str, ...]


def read_annotations(path: Path) -> Annotations:
    """Read the annotations. Raises `DataError` naming all that cannot be used."""
    content = _parse(path)
    try:
        images = {int(image["id"]): image for image in content["images"]}
        figures = _figures(content, images, path)
        cases = tuple(
            Case(
                name=str(images[number]["file_name"]),
                extent=(int(images[number]["width"]), int(images[number]["height"])),
                domain=_domain(images[number], number),
                figures=tuple(found),
            )
            for number, found in sorted(figures.items())
        )
        licences = tuple(str(licence["name"]) for licence in content.get("licenses") or ())
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not as MIDOG publishes it ({type(error).__name__}: {error}); "
            "expected are images, annotations and categories in the manner of COCO"
        ) from error
    return Annotations(cases=cases, empty=len(images) - len(cases), licences=licences)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{path} has no list {name!r}; expected are annotations in the manner of COCO")
    described = str((content.get("info") or {}).get("description", ""))
    if "MIDOG++" in described:
        raise DataError(
            f"{path} is of MIDOG++, which numbers its cases otherwise; source midog reads MIDOG 2022"
        )
    return dict(content)


def _figures(content: dict[str, Any], images: dict[int, Any], path: Path) -> dict[int, list[Figure]]:
    """Return the annotations of each image that has any, all of them checked."""
    labels, problems = _labels(content, path), []
    figures: dict[int, list[Figure]] = defaultdict(list)
    seen: dict[int, Any] = {}
    for annotation in content["annotations"]:
        number, image = int(annotation["id"]), int(annotation["image_id"])
        if number in seen:
            if seen[number] != annotation:
                problems.append(f"annotation {number}: it is there twice, with different content")
            continue
        seen[number] = annotation
        try:
            if image not in images:
                raise DataError(f"its image_id {image} is none of the images")
            if annotation["category_id"] not in labels:
                raise DataError(f"its category_id {annotation['category_id']} is none of the categories")
            x, y = _centre(annotation["bbox"], float(images[image]["width"]), float(images[image]["height"]))
        except DataError as error:
            problems.append(f"annotation {number}: {error}")
            continue
        figures[image].append(Figure(number=number, label=labels[annotation["category_id"]], x=x, y=y))
    if problems:
        raise BadRowsError(str(path), problems, noun="annotation")
    if not figures:
        raise DataError(f"{path} has no annotations")
    return figures


def _labels(content: dict[str, Any], path: Path) -> dict[int, int]:
    labels = {}
    for category in content["categories"]:
        name = str(category["name"]).lower()
        if name not in CATEGORIES:
            raise DataError(f"{path} has a category {name!r}; known are: {', '.join(CATEGORIES)}")
        labels[int(category["id"])] = CATEGORIES[name]
    return labels


def _centre(box: list[float], width: float, height: float) -> tuple[float, float]:
    left, top, right, bottom = map(float, box)
    if right <= left or bottom <= top:
        raise DataError(f"its bbox {box} is not [left, top, right, bottom], as MIDOG gives it")
    x, y = (left + right) / 2, (top + bottom) / 2
    if not (-TOLERANCE <= x <= width + TOLERANCE and -TOLERANCE <= y <= height + TOLERANCE):
        raise DataError(f"its bbox {box} lies outside of its image of {width:g}×{height:g} pixels")
    return x, y


def _domain(image: dict[str, Any], number: int) -> str | None:
    """Return tumour type and scanner: what the file says of them, else what `DOMAINS` does."""
    stated = [image.get("tumor_type") or image.get("tumortype"), image.get("scanner")]
    if any(stated):
        return ", ".join(str(part) for part in stated if part)
    return next((domain for first, last, domain in DOMAINS if first <= number <= last), None)

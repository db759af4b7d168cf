"""Source `midog`: patches around the mitotic figures of MIDOG 2022, and around what only looks like them.

Aubreville et al., "Domain generalization across tumor types, laboratories, and species", Medical Image
Analysis 94:103155 (2024); the training set is at https://doi.org/10.5281/zenodo.6547151.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ttl.data.fields import settle_types
from ttl.data.images import fit_to
from ttl.data.sources.archive import input_folder
from ttl.data.sources.base import Contents, Request, Sample, Source
from ttl.data.sources.entries import Entry, read_entries
from ttl.data.sources.midog_annotations import Case, Figure, read_annotations
from ttl.data.sources.regions import Regions, open_regions
from ttl.data.sources.table import BadRowsError, points_outside
from ttl.errors import DataError, ParamsError

CLASSES = ("hard negative", "mitotic figure")
ANNOTATIONS = ("MIDOG2022_training.json", "MIDOG2022_training_png.json", "MIDOG.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class MidogOptions:
    """`annotations` is the JSON file within the input, by default the one that is there under a known name.

    `images` is the folder within the input with the images. `patch` is the side of a patch in pixels of the
    image; the annotations are squares of 50.
    """

    annotations: str | None = None
    images: str = "."
    patch: int = 64

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        settle_types(self, where="options")
        if not 8 <= self.patch <= 2048:
            raise ParamsError(f"options.patch is {self.patch}; it must be from 8 to 2048 pixels")
        for name in ("annotations", "images"):
            if points_outside(getattr(self, name) or "."):
                raise ParamsError(
                    f"options.{name} is {getattr(self, name)!r}; it must be a path within the input"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a patch is: its side in pixels of the image, its channels, and its side when packed."""

    side: int
    channels: int
    size: int


def open_midog(request: Request) -> Contents:
    """Open the folder `input`: the images, and the annotations in the manner of COCO.

    Raises `DataError` for a file that is missing or is not the challenge's.
    """
    options: MidogOptions = request.options
    root = input_folder(request, "midog")
    names = ANNOTATIONS if options.annotations is None else (options.annotations,)
    path = next((root / name for name in names if (root / name).is_file()), root / names[0])
    annotations = read_annotations(path)
    shape = Shape(side=options.patch, channels=request.channels or 3, size=request.size or options.patch)
    patches = sum(len(case.figures) for case in annotations.cases)
    return Contents(
        task="binary",
        classes=CLASSES,
        shape=(shape.channels, shape.size, shape.size),
        licence=", ".join(annotations.licences) or "not stated in the annotations; see the dataset's page",
        source=f"MIDOG 2022 training set, patches of {options.patch} pixels, "
        "https://doi.org/10.5281/zenodo.6547151",
        samples=_samples(root / options.images, path, annotations.cases, shape),
        notes=(
            f"{patches} patches of {len(annotations.cases)} cases, which are kept together; "
            f"{annotations.empty} cases without annotations are left out. The challenge's test set is not "
            "published.",
            "A patch that would cross its image's border is moved inside.",
        ),
    )


def _samples(images: Path, path: Path, cases: tuple[Case, ...], shape: Shape) -> Iterator[Sample]:
    problems: list[str] = []
    for case in cases:
        try:
            for sample in _patches(images, case, shape):
                if not problems:
                    yield sample
        except BadRowsError as error:
            problems += [f"{case.name}, {problem}" for problem in error.problems]
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise BadRowsError(str(path), problems, noun="image")


def _patches(images: Path, case: Case, shape: Shape) -> Iterator[Sample]:
    """Yield the patches of an image, which is opened once."""
    if points_outside(case.name):
        raise DataError(f"{case.name} points outside the folder of images")
    regions = open_regions(images / case.name)
    if regions.extent != case.extent:
        raise DataError(
            f"{case.name} has {regions.extent[0]}×{regions.extent[1]} pixels; "
            f"the annotations are of {case.extent[0]}×{case.extent[1]}"
        )
    if min(regions.extent) < shape.side:
        raise DataError(f"{case.name} is smaller than a patch of {shape.side} pixels")
    stem = PurePosixPath(case.name).stem
    entries = [
        Entry(
            place=f"annotation {figure.number}",
            sample_id=f"{stem}-{figure.number}",
            label=figure.label,
            load=partial(_patch, regions, figure, shape),
            patient_id=stem,
            site=case.domain,
        )
        for figure in case.figures
    ]
    yield from read_entries(entries, case.name, noun="annotation")


def _patch(regions: Regions, figure: Figure, shape: Shape) -> NDArray[np.uint8]:
    left, top = (
        min(max(round(centre - shape.side / 2), 0), whole - shape.side)
        for centre, whole in zip((figure.x, figure.y), regions.extent, strict=True)
    )
    image = Image.fromarray(regions.cut(left, top, shape.side))
    return fit_to(image if shape.channels == 3 else image.convert("L"), (shape.size, shape.size), "stretch")


SOURCE = Source(title="MIDOG 2022 mitotic figures, as published", options=MidogOptions, open=open_midog)

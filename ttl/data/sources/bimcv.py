"""Source `bimcv`: chest radiographs of patients with and without COVID-19, BIMCV-COVID19+ and −.

de la Iglesia Vayá et al., "BIMCV COVID-19+: a large annotated dataset of RX and CT images from COVID-19
patients", https://arxiv.org/abs/2006.01174; for the negative ones https://doi.org/10.21227/m4j2-ap59.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ttl.data.fields import settle_types
from ttl.data.images import Fit
from ttl.data.sources.archive import input_folder
from ttl.data.sources.base import Contents, Request, Sample, Source
from ttl.data.sources.entries import Entry, read_entries
from ttl.data.sources.stored_values import Tags, read_stored, read_tags, study_date
from ttl.data.sources.table import points_outside
from ttl.errors import DataError, ParamsError

CLASSES = ("negative", "positive")
VIEW = re.compile(r"_vp-([a-z]+)(?=_|$)")
DEFAULT_SIZE = 224
LICENCE = "BIMCV-COVID19 Dataset Research Use Agreement: research only, not to be passed on"


@dataclass(frozen=True, slots=True, kw_only=True)
class BimcvOptions:
    """`positive` and `negative` are the folders, within the input, that hold the subjects' folders.

    `views` are the projections taken, by their mark in a file's name (`vp-ap`). An image without its tags
    (a JSON file beside it) is an error, or left out where `untagged` says so. `fit` brings the images to the
    square.
    """

    positive: str = "covid19_posi"
    negative: str = "covid19_neg"
    views: tuple[str, ...] = ("ap", "pa")
    untagged: Literal["error", "leave out"] = "error"
    fit: Fit = "pad"

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        settle_types(self, where="options")
        for name in ("positive", "negative"):
            if points_outside(getattr(self, name)):
                raise ParamsError(
                    f"options.{name} is {getattr(self, name)!r}; it must be a path within the input"
                )
        if not self.views:
            raise ParamsError("options.views is empty; name at least one, such as ap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A radiograph: its file, and the number of its class."""

    path: Path
    label: int


def open_bimcv(request: Request) -> Contents:
    """Open the folder `input`, which holds the folders `covid19_posi` and `covid19_neg`, unpacked.

    Raises `DataError` for a folder that is missing or has no radiograph of the views wanted.
    """
    options: BimcvOptions = request.options
    root = input_folder(request, "bimcv")
    size, channels = request.size or DEFAULT_SIZE, request.channels or 1
    films: list[Film] = []
    others = untagged = 0
    for label, folder in enumerate((options.negative, options.positive)):
        found = _radiographs(root / folder)
        wanted = [path for path in found if _view(path) in options.views]
        others += len(found) - len(wanted)
        if options.untagged == "leave out":
            tagged = [path for path in wanted if path.with_suffix(".json").is_file()]
            untagged += len(wanted) - len(tagged)
            wanted = tagged
        if not wanted:
            raise DataError(
                f"{root / folder} has no radiographs of the views {', '.join(options.views)} "
                f"({len(found)} of any); they are looked for in sub-*/ses-*/mod-rx/*.png"
            )
        films += [Film(path=path, label=label) for path in wanted]
    notes = [
        "A label is of the patient (a positive test, or none), not of the image: a film may be from before "
        "the infection, or show nothing of it. The two collections differ in hospitals and machines, which "
        "a network may learn instead.",
        f"{others} radiographs of other views, or whose name does not say the view, are left out. CT series "
        "are not read.",
    ]
    if untagged:
        notes.append(f"{untagged} radiographs without their tags are left out.")
    return Contents(
        task="binary",
        classes=CLASSES,
        shape=(channels, size, size),
        licence=LICENCE,
        source="BIMCV-COVID19+ and BIMCV-COVID19− (de la Iglesia Vayá et al., arXiv:2006.01174), "
        "https://bimcv.cipf.es/bimcv-projects/bimcv-covid19/",
        samples=_samples(root, films, options.fit, channels=channels, size=size),
        notes=tuple(notes),
        fit=options.fit,
    )


def _radiographs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; unpack the dataset's archives there, or set options")
    return sorted(folder.glob("sub-*/ses-*/mod-rx/*.png"))


def _view(path: Path) -> str | None:
    found = VIEW.search(path.stem)
    return found[1] if found else None


def _samples(root: Path, films: list[Film], fit: Fit, *, channels: int, size: int) -> Iterator[Sample]:
    def entry(film: Film) -> Entry:
        tags: Tags = {}
        day = problem = None
        try:
            tags = read_tags(film.path.with_suffix(".json"))
            day = study_date(tags)
        except DataError as error:
            problem = str(error)
        return Entry(
            place=film.path.relative_to(root).parent.as_posix(),
            sample_id=film.path.stem,
            label=film.label,
            load=partial(read_stored, film.path, tags, channels=channels, size=(size, size), fit=fit),
            patient_id=film.path.parents[2].name,
            acquired_at=day,
            problem=problem,
        )

    yield from read_entries(map(entry, films), str(root), noun="radiograph")


SOURCE = Source(title="BIMCV-COVID19+ and − radiographs, as published", options=BimcvOptions, open=open_bimcv)

"""Source `folder`: images in a folder or a zip file, with a table of labels, or a folder for each class."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from ttl.data.fields import settle_types
from ttl.data.images import Fit, read_image
from ttl.data.labels import Policy
from ttl.data.sources.archive import SHOWN, decode, open_zip, read_entry, reader
from ttl.data.sources.base import Contents, Request, Sample, Source, task_of
from ttl.data.sources.class_folders import list_images
from ttl.data.sources.entries import Entry, read_entries
from ttl.data.sources.table import Row, points_outside, read_table, repeated_notes
from ttl.errors import DataError, ParamsError

DEFAULT_SIZE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """Where the labels and the images are, and what they mean.

    `classes_from` says what has the labels: `table`, a CSV, or `folders`, a folder for each class, which
    holds its images. `table` and `images` are paths within the input: the CSV, and the folder that its
    `image` column, or the classes' folders, start from. `patient` is a regular expression that finds the
    patient's name in that of a file: the first group, or all of it, wherever in the name it matches.

    `classes` lists the labels in their order, the positive one last; without it they are the sorted labels
    found. Where an image may have several labels, `labels` are their columns, instead of `label`: 1, 0, −1
    (uncertain) or nothing (not known); `uncertain` says what becomes of the −1 in training. `fit` brings
    images of another shape to the square. `licence` and `description` are for the model card.
    """

    classes_from: Literal["table", "folders"] = "table"
    table: str = "labels.csv"
    images: str = "."
    patient: str | None = None
    classes: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    uncertain: Policy = "ignore"
    fit: Fit = "pad"
    licence: str = "not stated"
    description: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        settle_types(self, where="options")
        assert self.fit in get_args(Fit)
        for name in ("table", "images"):
            if points_outside(getattr(self, name)):
                raise ParamsError(
                    f"options.{name} is {getattr(self, name)!r}; it must be a path within the input"
                )
        if self.patient is not None:
            try:
                re.compile(self.patient)
            except re.error as error:
                raise ParamsError(
                    f"options.patient is {self.patient!r}, which is no regular expression: {error}"
                ) from error
        if self.classes is not None:
            if len(self.classes) < 2:
                raise ParamsError(f"options.classes has {len(self.classes)} entries; at least 2 are needed")
            if len(set(self.classes)) != len(self.classes):
                raise ParamsError(f"options.classes names a class twice: {', '.join(self.classes)}")
        if self.labels is not None:
            self._check_labels(self.labels)

    def _check_labels(self, labels: tuple[str, ...]) -> None:
        if self.classes is not None:
            raise ParamsError("options has classes and labels; an image has one of the classes or any labels")
        if self.classes_from == "folders":
            raise ParamsError("options has labels, which are columns of a table, and classes_from folders")
        if len(labels) < 2 or len(set(labels)) != len(labels):
            raise ParamsError(
                f"options.labels is {', '.join(labels) or 'empty'}; name at least two columns, each once"
            )


def open_folder(request: Request) -> Contents:
    """Open the folder or zip file `input`.

    Raises `DataError` for an input, table or column that is missing. What is wrong with single rows is
    raised, all rows at once, when the samples are read.
    """
    options: FolderOptions = request.options
    if request.input is None:
        raise ParamsError(
            "input is not set; source folder needs the folder or zip file that holds the images"
        )
    path = Path(request.input).expanduser()
    if not path.exists():
        raise DataError(f"the input {path} does not exist; give a folder or a zip file")
    listed_in = str(path) if options.classes_from == "folders" else f"{path}/{options.table}"
    rows, repeated, columns = _list(path, options, listed_in)
    classes = options.labels or options.classes or tuple(sorted({row.label for row in rows if row.label}))
    if len(classes) < 2:
        raise DataError(
            f"{listed_in}: its labels are {', '.join(classes) or 'empty'}; at least two classes are needed"
        )
    size, channels = request.size or DEFAULT_SIZE, request.channels or 1
    notes = []
    if options.classes is None and options.labels is None:
        notes.append(
            f"The classes are in alphabetical order, for options.classes gives none: {', '.join(classes)}"
            + (f"; the positive one is {classes[-1]}." if len(classes) == 2 else ".")
        )
    notes += repeated_notes(repeated, options.table)
    if options.patient is not None:
        notes.append(f"Patients are what {options.patient} finds in the names of the files.")
    elif "patient_id" not in columns:
        notes.append("No patients are given: images of one patient may stand on two sides of the split.")
    elif unknown := sum(row.patient_id is None for row in rows):
        notes.append(f"{unknown} images have no patient and were split one by one.")
    labelled = "in a folder for each class" if options.classes_from == "folders" else f"and {options.table}"
    return Contents(
        task="multilabel" if options.labels else task_of(classes),
        classes=classes,
        shape=(channels, size, size),
        licence=options.licence,
        source=options.description or f"images {labelled} of {path.name}",
        samples=_samples(path, rows, classes, options, channels=channels, size=size, listed_in=listed_in),
        given_split="split" in columns,
        notes=tuple(notes),
        fit=options.fit,
        uncertain=options.uncertain,
    )


def _list(path: Path, options: FolderOptions, listed_in: str) -> tuple[list[Row], int, tuple[str, ...]]:
    """Return the rows of the table, or of the images in the classes' folders, as `read_table` does."""
    if options.classes_from == "folders":
        return list_images(path, options.images, options.classes), 0, ()
    text = _table_in_folder(path, options.table) if path.is_dir() else _table_in_zip(path, options.table)
    rows, repeated, columns = read_table(text, listed_in, options.labels or ())
    if options.patient is not None and "patient_id" in columns:
        raise ParamsError(
            f"options.patient is {options.patient!r}, but {listed_in} has the column patient_id; "
            "leave one of them out"
        )
    _check_place(path, rows, options.images, listed_in)
    return rows, repeated, columns


def _check_place(path: Path, rows: list[Row], images: str, table: str) -> None:
    """Raise one error, not one a row, where the images lie in another folder than was said."""
    names = [str(PurePosixPath(images, row.image)) for row in rows if row.problem is None]
    if path.is_dir():
        found = any((path / name).is_file() for name in names)
    else:
        with open_zip(path) as archive:
            found = not set(names).isdisjoint(archive.namelist())
    if names and not found:
        raise DataError(
            f"{table}: none of its {len(names)} images is there; the first would be {path}/{names[0]}. "
            f"options.images is {images!r}: it names the folder within the input that the column `image` "
            "starts from"
        )


def _samples(
    path: Path,
    rows: list[Row],
    classes: tuple[str, ...],
    options: FolderOptions,
    *,
    channels: int,
    size: int,
    listed_in: str,
) -> Iterator[Sample]:
    numbers = {name: number for number, name in enumerate(classes)}
    pattern = re.compile(options.patient) if options.patient is not None else None

    def entry(row: Row) -> Entry:
        problem, patient = row.problem, row.patient_id
        if problem is None and not row.labels and row.label not in numbers:
            problem = f"{row.image} has label {row.label!r}; the classes are: {', '.join(classes)}"
        if problem is None and pattern is not None:
            found = pattern.search(PurePosixPath(row.image).name)
            patient = found and (found[1] if pattern.groups else found[0])
            if not patient:
                problem = f"options.patient ({options.patient}) finds no patient in the name {row.image}"
        return Entry(
            place=f"line {row.line}" if options.classes_from == "table" else row.label,
            sample_id=row.image,
            label=row.labels or numbers.get(row.label, -1),
            load=lambda: read_image(
                read(str(PurePosixPath(options.images, row.image))),
                name=row.image,
                channels=channels,
                size=(size, size),
                fit=options.fit,
            ),
            patient_id=patient,
            site=row.site,
            acquired_at=row.acquired_at,
            split=row.split,
            problem=problem,
        )

    with reader(path) as read:
        noun = "row" if options.classes_from == "table" else "image"
        yield from read_entries(map(entry, rows), listed_in, noun=noun)


def _table_in_folder(path: Path, table: str) -> str:
    if not (path / table).is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:SHOWN]) or "nothing"
        raise DataError(f"{path} has no table {table}; set options.table. It has: {found}")
    return decode((path / table).read_bytes(), f"{path}/{table}")


def _table_in_zip(path: Path, table: str) -> str:
    with open_zip(path) as archive:
        if str(PurePosixPath(table)) not in archive.namelist():
            found = ", ".join(sorted(archive.namelist())[:SHOWN]) or "nothing"
            raise DataError(f"{path} has no table {table}; set options.table. It has: {found}")
        return decode(read_entry(archive, str(PurePosixPath(table))), f"{path}/{table}")


SOURCE = Source(
    title="your images, with a CSV or a folder for each class, in a folder or zip file",
    options=FolderOptions,
    open=open_folder,
)

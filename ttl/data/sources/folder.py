"""Source `folder`: a table of images and labels, and the images, in a folder or a zip file."""

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from ttl.data.fields import settle_types
from ttl.data.images import Fit, read_image
from ttl.data.labels import Policy
from ttl.data.sources.base import Contents, Request, Sample, Source, task_of
from ttl.data.sources.table import SHOWN, BadRowsError, Row, points_outside, read_table
from ttl.errors import DataError, ParamsError

DEFAULT_SIZE = 224
MAX_BYTES = 1 << 30
"""A larger zip entry is refused: a small archive can unpack to more than the memory holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """Where the table and the images are, and what they mean.

    `table` and `images` are paths within the input: the CSV, and the folder that its `image` column starts
    from. `classes` lists the labels in their order, the positive one last; without it they are the sorted
    labels found. Where an image may have several labels, `labels` are their columns, instead of `label`: 1,
    0, −1 (uncertain) or nothing (not known); `uncertain` says what becomes of the −1 in training. `fit`
    brings images of another shape to the square. `licence` and `description` are for the model card.
    """

    table: str = "labels.csv"
    images: str = "."
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
        if self.classes is not None:
            if len(self.classes) < 2:
                raise ParamsError(f"options.classes has {len(self.classes)} entries; at least 2 are needed")
            if len(set(self.classes)) != len(self.classes):
                raise ParamsError(f"options.classes names a class twice: {', '.join(self.classes)}")
        if self.labels is not None:
            if self.classes is not None:
                raise ParamsError(
                    "options has classes and labels; an image has one of the classes or any labels"
                )
            if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
                raise ParamsError(
                    f"options.labels is {', '.join(self.labels) or 'empty'}; name at least two columns, each "
                    "once"
                )


Read = Callable[[str], Path | bytes]
"""Gives the image of that path within the input: a file, or its bytes. Raises `DataError`."""


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
    if path.is_dir():
        text = _table_in_folder(path, options.table)
    elif path.is_file():
        text = _table_in_zip(path, options.table)
    else:
        raise DataError(f"the input {path} does not exist; give a folder or a zip file")
    table = f"{path}/{options.table}"
    rows, repeated, columns = read_table(text, table, options.labels or ())
    _check_place(path, rows, options.images, table)
    classes = options.labels or options.classes or tuple(sorted({row.label for row in rows if row.label}))
    if len(classes) < 2:
        raise DataError(
            f"{table}: its labels are {', '.join(classes) or 'empty'}; at least two classes are needed"
        )
    size, channels = request.size or DEFAULT_SIZE, request.channels or 1
    notes = []
    if options.classes is None and options.labels is None:
        notes.append(
            f"The classes are in alphabetical order, for options.classes gives none: {', '.join(classes)}"
            + (f"; the positive one is {classes[-1]}." if len(classes) == 2 else ".")
        )
    if repeated:
        notes.append(f"{repeated} rows of {options.table} repeat another row and were read once.")
    if "patient_id" not in columns:
        notes.append("No patients are given: images of one patient may stand on two sides of the split.")
    elif unknown := sum(row.patient_id is None for row in rows):
        notes.append(f"{unknown} images have no patient and were split one by one.")
    return Contents(
        task="multilabel" if options.labels else task_of(classes),
        classes=classes,
        shape=(channels, size, size),
        licence=options.licence,
        source=options.description or f"images and {options.table} of {path.name}",
        samples=_samples(path, rows, classes, options, channels=channels, size=size, table=table),
        given_split="split" in columns,
        notes=tuple(notes),
        fit=options.fit,
        uncertain=options.uncertain,
    )


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
    table: str,
) -> Iterator[Sample]:
    numbers = {name: number for number, name in enumerate(classes)}
    problems = []
    with _reader(path) as read:
        for row in rows:
            try:
                if row.problem is not None:
                    raise DataError(row.problem)
                if not row.labels and row.label not in numbers:
                    raise DataError(
                        f"{row.image} has label {row.label!r}; the classes are: {', '.join(classes)}"
                    )
                pixels = read_image(
                    read(str(PurePosixPath(options.images, row.image))),
                    name=row.image,
                    channels=channels,
                    size=(size, size),
                    fit=options.fit,
                )
            except DataError as error:
                problems.append(f"line {row.line}: {error}")
                continue
            if not problems:
                yield Sample(
                    sample_id=row.image,
                    pixels=pixels,
                    label=row.labels or numbers[row.label],
                    patient_id=row.patient_id,
                    site=row.site,
                    acquired_at=row.acquired_at,
                    split=row.split,
                )
    if problems:
        raise BadRowsError(table, problems)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[Read]:
    if path.is_dir():
        yield lambda name: path / name
    else:
        with open_zip(path) as archive:
            yield lambda name: read_entry(archive, name)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive. Raises `DataError` for one that is damaged or has an entry that points outside."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}") from error
    for entry in archive.infolist():
        if points_outside(entry.filename) or stat.S_ISLNK(entry.external_attr >> 16):
            archive.close()
            raise DataError(
                f"{path} has an entry that points outside of it: {entry.filename}; the archive is not used"
            )
    return archive


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of an archive's entry. Raises `DataError` naming one that is missing or damaged."""
    try:
        entry = archive.getinfo(name)
        if entry.file_size > MAX_BYTES:
            raise DataError(f"{name} unpacks to {entry.file_size:,} bytes; {MAX_BYTES:,} are accepted")
        return archive.read(entry)
    except KeyError as error:
        raise DataError(f"{name} is missing in the zip file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name} in the zip file cannot be read: {error}") from error


def _table_in_folder(path: Path, table: str) -> str:
    if not (path / table).is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:SHOWN]) or "nothing"
        raise DataError(f"{path} has no table {table}; set options.table. It has: {found}")
    return _decode((path / table).read_bytes(), f"{path}/{table}")


def _table_in_zip(path: Path, table: str) -> str:
    with open_zip(path) as archive:
        if str(PurePosixPath(table)) not in archive.namelist():
            found = ", ".join(sorted(archive.namelist())[:SHOWN]) or "nothing"
            raise DataError(f"{path} has no table {table}; set options.table. It has: {found}")
        return _decode(read_entry(archive, str(PurePosixPath(table))), f"{path}/{table}")


def _decode(data: bytes, table: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 at byte {error.start}; save it as UTF-8") from error


SOURCE = Source(
    title="your images, with a CSV, in a folder or zip file", options=FolderOptions, open=open_folder
)

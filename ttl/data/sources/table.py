"""Reading tables of images: CSV files, whose bad rows are all found before anything is said."""

import csv
import datetime
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ttl.data.dataset import SPLITS
from ttl.data.labels import read_label
from ttl.errors import DataError

REQUIRED = ("image", "label")
OPTIONAL = ("patient_id", "split", "site", "acquired_at")
SHOWN = 10
"""So many bad rows are shown in a message; the rest is counted."""


class BadRowsError(DataError):
    """Rows of a table that cannot be used. `problems` has them all; the message shows the first."""

    def __init__(self, table: str, problems: Sequence[str], *, noun: str = "row") -> None:
        self.problems = tuple(problems)
        more = len(problems) - SHOWN
        lines = [*problems[:SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        count = f"{len(problems)} {noun}{'s' if len(problems) > 1 else ''}"
        super().__init__(f"{table}: {count} cannot be used:\n" + "\n".join(f"  {line}" for line in lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The cells of a row by their columns, its line in the file, and what is wrong with it, if anything."""

    line: int
    values: dict[str, str]
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """A table: its columns, its rows, and how many rows were repetitions of others, which are left out."""

    columns: tuple[str, ...]
    rows: tuple[Record, ...]
    repeated: int


def read_records(
    text: str,
    table: str,
    *,
    key: str,
    required: Sequence[str] = (),
    once: Collection[str] = (),
    delimiter: str = ",",
) -> Records:
    """Return a CSV's rows. `key` is the column that names an image, which no two rows may share.

    `required` columns must be there, and neither these nor those of `once` twice. Raises `DataError` for a
    table without rows or without a needed column; what is wrong with single rows they say themselves.
    """
    required = tuple(dict.fromkeys((key, *required)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in required if name not in header]
        if missing:
            found = ", ".join(header) or "nothing"
            raise DataError(f"{table} has no column {' or '.join(missing)}; its columns are: {found}")
        twice = sorted({name for name in (*required, *once) if header.count(name) > 1})
        if twice:
            raise DataError(f"{table} has the column {', '.join(twice)} more than once")
        rows: list[Record] = []
        lines: dict[str, tuple[int, list[str]]] = {}
        repeated = 0
        for raw in reader:
            cells = [cell.strip() for cell in raw]
            if not any(cells):
                continue
            line, values = reader.line_num, dict(zip(header, cells, strict=False))
            name, problem = values.get(key, ""), None
            if len(cells) != len(header):
                problem = f"has {len(cells)} cells, the header has {len(header)}"
            elif not name:
                problem = f"names no {key}"
            elif name in lines:
                earlier, others = lines[name]
                differing = [c for c, a, b in zip(header, others, cells, strict=True) if a != b]
                if not differing:
                    repeated += 1
                    continue
                problem = f"{name} is also on line {earlier}, with another {' and '.join(differing)}"
            else:
                lines[name] = line, cells
            rows.append(Record(line=line, values=values, problem=problem))
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: not a CSV file: {error}") from error
    if not rows:
        raise DataError(f"{table} has no rows")
    return Records(columns=tuple(header), rows=tuple(rows), repeated=repeated)


def repeated_notes(repeated: int, table: str) -> list[str]:
    """Return a sentence on rows that only repeat others."""
    return [f"{repeated} rows of {table} repeat another row and were read once."] if repeated else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table, its line in the file, and what is wrong with it, if anything is.

    `labels` are those of a table with a column a label, whose `label` is empty.
    """

    line: int
    image: str
    label: str
    patient_id: str | None
    split: str | None
    site: str | None
    acquired_at: datetime.date | None
    problem: str | None
    labels: tuple[int, ...] = ()


def read_table(text: str, table: str, labels: Sequence[str] = ()) -> tuple[list[Row], int, tuple[str, ...]]:
    """Return a CSV's rows, how many were repetitions, which are left out, and the columns it has.

    `labels` are the columns of the labels where an image has several; else it is `label` alone. Raises
    `DataError` for a table without rows or without a needed column.
    """
    required = ("image", *labels) if labels else REQUIRED
    records = read_records(text, table, key="image", required=required, once=OPTIONAL)
    return [_row(record, labels) for record in records.rows], records.repeated, records.columns


def _row(record: Record, columns: Sequence[str]) -> Row:
    values, problem, day = record.values, record.problem, None
    image, label = values.get("image", ""), values.get("label", "")
    labels: tuple[int, ...] = ()
    if problem is None:
        if points_outside(image):
            problem = f"{image} points outside the folder of images"
        elif not label and not columns:
            problem = f"{image} has no label"
        elif "split" in values and values["split"] not in SPLITS:
            problem = f"{image} has split {values['split']!r}; it must be one of {', '.join(SPLITS)}"
    if problem is None:
        try:
            day = _date(values.get("acquired_at", ""))
        except ValueError:
            problem = f"{image} has acquired_at {values['acquired_at']!r}; write it as 2024-01-31"
        try:
            labels = tuple(read_label(values[name]) for name in columns)
        except DataError as error:
            problem = f"{image}: {error}"
    return Row(
        line=record.line,
        image=image,
        label="" if columns else label,
        patient_id=values.get("patient_id") or None,
        split=values.get("split") or None,
        site=values.get("site") or None,
        acquired_at=day,
        problem=problem,
        labels=labels,
    )


def points_outside(path: str) -> bool:
    """Whether a path within a folder or archive would leave it."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0] if parts.parts else False


def _date(text: str) -> datetime.date | None:
    return datetime.datetime.fromisoformat(text).date() if text else None

"""A drop: a folder `<site>/<drop>/` with images, `labels.csv` and, put there last, `MANIFEST.csv`.

Names of files may name people, and so may the cells of a table: messages give lines and columns, no values.
"""

import csv
import datetime
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ttl.bucket import Bucket
from ttl.data.sources.table import points_outside
from ttl.errors import DataError

MANIFEST = "MANIFEST.csv"
LABELS = "labels.csv"

PATIENCE = 60.0
"""Seconds to wait for a storage that does not answer."""

TABLE_BYTES = 256_000_000
"""A larger table is refused unread."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What sites and drops may be called."""

MISNAMED = (
    "name has other characters than letters, digits, `.`, `_` and `-`, does not begin with a letter or a "
    "digit, or has more than 64; give it another, which names no person"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A row of the manifest: a file's path in the drop, its SHA-256 and its bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A row of `labels.csv`. `label` is empty where the table leaves it so."""

    image: str
    label: str
    patient_id: str | None
    acquired_at: datetime.date | None


@dataclass(frozen=True)
class Drop:
    """A drop in `bucket`, whose address is the drop's own. What it has is read when it is asked for.

    Raises `DataError` for a manifest or labels that cannot be used, as a whole: see each property.
    """

    site: str
    name: str
    bucket: Bucket

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the manifest: what stands for this drop."""
        return hashlib.sha256(self._manifest_bytes).hexdigest()

    @cached_property
    def manifest(self) -> tuple[Listed, ...]:
        """What the manifest lists, in its order."""
        where = f"{self.place}/{MANIFEST}"
        rows: dict[str, Listed] = {}
        for line, row in _table(self._manifest_bytes, where, ("path", "sha256", "size")):
            path = _path(row["path"], where, line)
            if path in rows:
                raise DataError(f"{where}, line {line}: lists a file again; list each file once")
            if path == MANIFEST:
                raise DataError(f"{where}, line {line}: lists the manifest itself; leave that row out")
            if not re.fullmatch(r"[0-9a-fA-F]{64}", row["sha256"]):
                raise DataError(f"{where}, line {line}: sha256 must be 64 hexadecimal digits")
            if not re.fullmatch(r"[0-9]{1,15}", row["size"]):
                raise DataError(f"{where}, line {line}: size must be the file's bytes, a whole number")
            rows[path] = Listed(path=path, sha256=row["sha256"].lower(), size=int(row["size"]))
        if not rows:
            raise DataError(f"{where} lists no files; write it anew, when all files are there")
        return tuple(rows.values())

    @cached_property
    def labels(self) -> Mapping[str, Label]:
        """The labels by image. Raises `DataError` too if the file is not what the manifest says."""
        where = f"{self.place}/{LABELS}"
        data = self._read_table(LABELS, "add it, and write the manifest anew")
        for listed in self.manifest:
            if listed.path == LABELS and hashlib.sha256(data).hexdigest() != listed.sha256:
                raise DataError(
                    f"{where} is not the file that {MANIFEST} lists (its SHA-256 differs), so no file of the "
                    "drop can be judged; send it again, or write the manifest anew"
                )
        labels: dict[str, Label] = {}
        for line, row in _table(data, where, ("image", "label")):
            image = _path(row["image"], where, line)
            try:
                day = row.get("acquired_at") or ""
                acquired_at = datetime.datetime.fromisoformat(day).date() if day else None
            except ValueError:
                raise DataError(f"{where}, line {line}: write acquired_at as 2024-01-31") from None
            label = Label(
                image=image,
                label=row["label"],
                patient_id=row.get("patient_id") or None,
                acquired_at=acquired_at,
            )
            if labels.setdefault(image, label) != label:
                raise DataError(
                    f"{where}, line {line}: differs from an earlier row of the same image; keep the true one"
                )
        return labels

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The bytes of each file that is there, by its path."""
        return self.bucket.sizes()

    def lacking(self) -> list[str]:
        """Return the listed files that are not there, or not whole yet: such a drop is to wait.

        For a drop that lacks nothing, its labels are read too, so that what is wrong with them is raised.
        """
        sizes = self.bucket.sizes()
        lacking = [one.path for one in self.manifest if sizes.get(one.path, -1) < one.size]
        if not lacking:
            _ = self.labels
        return lacking

    @property
    def place(self) -> str:
        """Where it lies: `<site>/<drop>`."""
        return f"{self.site}/{self.name}"

    @cached_property
    def _manifest_bytes(self) -> bytes:
        return self._read_table(MANIFEST, "write it when all the other files are there")

    def _read_table(self, name: str, remedy: str) -> bytes:
        try:
            data = self.bucket.read_start(name, TABLE_BYTES + 1)
        except FileNotFoundError:
            raise DataError(f"{self.place} has no {name}; {remedy}") from None
        if len(data) > TABLE_BYTES:
            raise DataError(
                f"{self.place}/{name} has more than the {TABLE_BYTES:,} bytes accepted; make several drops"
            )
        return data


def open_drop(address: str) -> Drop:
    """Return the drop at an address, whose last two parts are site and name. Raises `DataError`."""
    full = address.rstrip("/") if "://" in address else str(Path(address).expanduser().resolve())
    parts = [part for part in full.partition("://")[2 if "://" in full else 0].split("/") if part]
    if len(parts) < 2:
        raise DataError(f"{address!r} is no drop; give the address of <site>/<drop>")
    drop = Drop(parts[-2], parts[-1], Bucket(full, patience=PATIENCE, private=True))
    if not (NAME.fullmatch(drop.site) and NAME.fullmatch(drop.name)):
        raise DataError(f"{address!r} would wait: of its last two parts, the {MISNAMED}")
    _ = drop.digest
    return drop


def _table(data: bytes, where: str, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV with their lines."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        wrong = [name for name in required if header.count(name) != 1]
        if wrong:
            raise DataError(
                f"{where} must have the column {' and '.join(wrong)} once; its first line must be the "
                f"names of its columns, with {', '.join(required)} among them"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where}, line {reader.line_num}: has {len(cells)} cells, the header has {len(header)}"
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error:
        raise DataError(f"{where}, line {reader.line_num}: not a CSV file; save it as one") from None


def _path(text: str, where: str, line: int) -> str:
    if not text or points_outside(text) or "\\" in text or "\0" in text:
        raise DataError(
            f"{where}, line {line}: has no path within the drop; write it from the drop's folder on, with /"
        )
    return str(PurePosixPath(text))

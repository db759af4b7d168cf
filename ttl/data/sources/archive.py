"""The places that a source reads from: a folder, or a zip file, by paths within it."""

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ttl.data.sources.base import Request
from ttl.data.sources.table import points_outside
from ttl.errors import DataError, ParamsError

MAX_BYTES = 1 << 30
"""A larger zip entry is refused: a small archive can unpack to more than the memory holds."""

SHOWN = 10
"""So many of the files that were found are named in a message."""

Read = Callable[[str], Path | bytes]
"""Gives the file of that path within a place: a path, or its bytes. Raises `DataError`."""


def input_folder(request: Request, source: str) -> Path:
    """Return the folder that a request names. Raises an error that says what should be there."""
    if request.input is None:
        raise ParamsError(f"input is not set; source {source} needs the folder of the dataset's files")
    path = Path(request.input).expanduser()
    if not path.is_dir():
        raise DataError(
            f"the input {path} is not a folder; source {source} needs the folder of the dataset's files"
        )
    return path


def read_text(path: Path) -> str:
    """Return the text of a table, which must be UTF-8; a byte order mark is dropped."""
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        found = ", ".join(beside[:SHOWN]) or "nothing"
        raise DataError(f"{path} is missing; {path.parent} has: {found}")
    return decode(path.read_bytes(), str(path))


def decode(data: bytes, table: str) -> str:
    """Return the text that UTF-8 bytes are. Raises `DataError` naming the first that is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 at byte {error.start}; save it as UTF-8") from error


@contextlib.contextmanager
def reader(path: Path) -> Iterator[Read]:
    """Give what reads the files of a folder or zip file."""
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

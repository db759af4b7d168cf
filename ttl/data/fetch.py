"""Fetching a published file: from the local cache, a mirror, or its address, with its checksum verified."""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ttl.errors import DataError

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "TTL_DATA_MIRROR"
TIMEOUT = 60.0
"""Seconds without an answer before a server is given up."""

CHUNK = 1 << 20
LENGTHS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file by its name, its published address, and its checksum as `md5:…` or `sha256:…` where known."""

    name: str
    address: str | None = None
    checksum: str | None = None

    def __post_init__(self) -> None:
        """Refuse a checksum of an unknown kind."""
        if self.checksum is not None:
            check_checksum(self.checksum)


def check_checksum(text: str) -> str:
    """Return a checksum written `md5:…` or `sha256:…`. Raises `DataError` where it is neither."""
    kind, _, digits = text.partition(":")
    if LENGTHS.get(kind) != len(digits) or not set(digits) <= set("0123456789abcdef"):
        raise DataError(
            f"{text!r} is not a checksum: write md5: and 32, or sha256: and 64 lower-case hexadecimal digits"
        )
    return text


def fetch(file: RemoteFile, *, cache: Path, accept_checksum: str | None = None) -> Path:
    """Return a local path of `file`, whose content has been verified where a checksum is known.

    Looked for in the folder `cache`, then in the folder or bucket that `TTL_DATA_MIRROR` names, then at its
    address. A file of a mirrored folder is used in place; others are stored in `cache`, in one step.
    `accept_checksum` stands for the user's own decision to accept a file other than the published one.
    Raises `DataError` for a wrong checksum, and for a file that is in none of the places.
    """
    accepted = tuple(c for c in (accept_checksum and check_checksum(accept_checksum), file.checksum) if c)
    cached = cache / file.name
    if cached.is_file():
        if not accepted or _matching(cached, accepted):
            return cached
        logger.warning("%s in the cache is not the file wanted (checksum); it is fetched anew", cached)
    tried = [f"the cache {cache}"]
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror and "://" not in mirror:
        local = Path(mirror) / file.name
        if local.is_file():
            verify(local, accepted, where=str(local))
            return local
        tried.append(f"the mirror {mirror}")
    places = [f"{mirror.rstrip('/')}/{file.name}"] if mirror and "://" in mirror else []
    for address in [*places, *([file.address] if file.address else [])]:
        try:
            return _store(address, cached, accepted)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - the client of each protocol raises errors of its own
            tried.append(f"{address} ({type(error).__name__}: {error})")
    if not mirror:
        tried.append(f"no mirror ({MIRROR_VARIABLE} is not set)")
    raise DataError(
        f"{file.name} was found nowhere: {'; '.join(tried)}. Put the file into the cache, or name a folder "
        f"or bucket that holds it in {MIRROR_VARIABLE}"
    )


def verify(path: Path, accepted: tuple[str, ...], *, where: str) -> None:
    """Raise `DataError` unless the file has one of the accepted checksums, or none is known."""
    if accepted and not _matching(path, accepted):
        kind = accepted[-1].partition(":")[0]
        raise DataError(
            f"{where} has {digest(path, kind)}; expected is {' or '.join(accepted)}. The file is damaged or "
            f"not the published one; if you trust it, set options.accept_checksum: {digest(path, 'sha256')}"
        )


def digest(path: Path, kind: str) -> str:
    """Return the checksum of a file, with its kind before it."""
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _matching(path: Path, accepted: tuple[str, ...]) -> bool:
    return any(digest(path, checksum.partition(":")[0]) == checksum for checksum in accepted)


def _store(address: str, target: Path, accepted: tuple[str, ...]) -> Path:
    with _partial(target) as partial:
        logger.info("fetching %s", address)
        if address.startswith(("http://", "https://")):
            _download(address, partial)
        else:
            import fsspec  # noqa: PLC0415 - needed for a bucket alone

            filesystem, remote = fsspec.core.url_to_fs(address)
            filesystem.get_file(remote, str(partial))
        verify(partial, accepted, where=address)
        partial.replace(target)
    return target


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Give a path beside `target` for a file in the making; it is gone at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _download(address: str, partial: Path) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": "ttl"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as reply, partial.open("wb") as file:
        shutil.copyfileobj(reply, file, CHUNK)
        length = reply.headers.get("Content-Length")
    if length is not None and partial.stat().st_size != int(length):
        raise OSError(f"the connection ended after {partial.stat().st_size} of {length} bytes")

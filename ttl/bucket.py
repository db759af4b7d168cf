"""A folder or bucket that fsspec can reach, and that may fail to answer for a while."""

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from ttl.errors import ServiceError

# fsspec's implementations take a while to import, and most commands need none.
# ruff: noqa: PLC0415

logger = logging.getLogger(__name__)

T = TypeVar("T")

SLOWEST = 250_000
"""Bytes a second: an upload that is slower than this is given up, and tried again."""


class Bucket:
    """What lies under one address; paths are relative to it.

    Each call waits out a storage that does not answer, for `patience` seconds; with 0 it is tried once. It
    raises `ServiceError` when that did not help, and at once for what no waiting mends: a missing bucket,
    refused credentials. Raises `ServiceError` for an address that names no folder or bucket.

    Args:
        address: a folder, or an address such as `s3://bucket/prefix`.
        patience: seconds to go on trying.
        timeout: seconds for one answer of a server; an upload has more, by its size.
        private: whether names of files may name people: errors and warnings then give the address alone,
            and of what went wrong only its kind.

    """

    def __init__(
        self, address: str, *, patience: float, timeout: float = 15.0, private: bool = False
    ) -> None:
        self.address = address
        self.patience = patience
        self.timeout = timeout
        self.private = private
        try:
            self.files, self.root = _open(address, timeout)
        except (ValueError, ImportError) as error:
            raise ServiceError(f"{address!r} is no folder or bucket: {error}") from error
        self.local = "file" in self.files.protocol
        self.silent_since: float | None = None
        self.lock = threading.Lock()

    def names(self, folder: str = "") -> list[str]:
        """Return the names in a folder; none if there is no such folder."""

        def look() -> list[str]:
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return []
            return [str(path).rstrip("/").rpartition("/")[2] for path in found]

        return self._patiently(look, self._doing("listing", folder))

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; none if there is no such folder."""

        def look() -> list[str]:
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return []
            names = [str(one["name"]).rstrip("/") for one in found if one["type"] == "directory"]
            return sorted(name.rpartition("/")[2] for name in names)

        return self._patiently(look, self._doing("listing", folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the bytes of each file under a folder, however deep, by its path in that folder."""

        def look() -> dict[str, int]:
            self.files.invalidate_cache()
            found = self.files.find(self._at(folder), detail=True)
            start = len(self.files._strip_protocol(self._at(folder)).rstrip("/")) + 1
            return {str(path)[start:]: int(one["size"]) for path, one in sorted(found.items())}

        return self._patiently(look, self._doing("listing", folder))

    def read(self, path: str) -> bytes:
        """Return a file's content. Raises `FileNotFoundError`."""
        content: bytes = self._patiently(
            lambda: self.files.cat_file(self._at(path)), self._doing("reading", path)
        )
        return content

    def read_start(self, path: str, limit: int) -> bytes:
        """Return a file's content, of a longer one its first `limit` bytes. Raises `FileNotFoundError`."""

        def look() -> bytes:
            with self.files.open(self._at(path), "rb", cache_type="none") as file:
                content: bytes = file.read(limit)
            return content

        return self._patiently(look, self._doing("reading", path))

    def write(self, path: str, data: bytes) -> None:
        """Write a file in one step."""

        def write() -> None:
            if self.local:
                aside = Path(f"{self._at(path)}.{uuid4().hex[:8]}.new")
                _fill(aside, "wb", data)
                aside.replace(self._at(path))
            else:
                self.files.pipe_file(self._at(path), data, **self._limit(len(data)))

        self._writing(write, path)

    def create(self, path: str, data: bytes) -> None:
        """Write what is not there yet. Raises `FileExistsError` if it is."""

        def create() -> None:
            if self.local:
                # Of folders, fsspec's own `create` looks first and then writes: two can both find nothing.
                _fill(Path(self._at(path)), "xb", data)
                return
            try:
                self.files.pipe_file(self._at(path), data, mode="create", **self._limit(len(data)))
            except OSError as error:
                # Not every server says which condition was not met.
                if "PreconditionFailed" in str(error.__cause__ or error):
                    raise FileExistsError(path) from error
                raise

        self._writing(create, path)

    def rewrite(self, path: str, data: bytes) -> None:
        """Write over a file by as many bytes, which in a folder takes no room.

        Raises `FileNotFoundError` in a folder; in a bucket it makes what is not there.
        """

        def rewrite() -> None:
            if self.local:
                with Path(self._at(path)).open("r+b") as file:
                    file.write(data)
            else:
                self.files.pipe_file(self._at(path), data, **self._limit(len(data)))

        self._patiently(rewrite, self._doing("writing", path))

    def remove(self, path: str, *, folder: bool = False) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        with suppress(FileNotFoundError):
            if folder:
                self._patiently(
                    lambda: self.files.rm(self._at(path), recursive=True, **self._limit(0)),
                    self._doing("removing", path),
                )
            else:
                self._patiently(lambda: self.files.rm_file(self._at(path)), self._doing("removing", path))

    def _limit(self, size: int) -> dict[str, float]:
        """Return the time limit of a request with a body of so many bytes, as fsspec takes it."""
        # What waits to be told to go on with its body has no other: aiohttp counts from the body's end.
        return {"timeout": self.timeout + size / SLOWEST} if self.files.async_impl else {}

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _doing(self, verb: str, path: str) -> str:
        return f"{verb} what lies there" if self.private else f"{verb} {self.address}/{path}"

    def _writing(self, call: Callable[[], None], path: str) -> None:
        try:
            self._patiently(call, self._doing("writing", path))
        except FileNotFoundError as error:
            raise ServiceError(f"{self.address} does not exist; make the bucket, or name another") from error

    def _patiently(self, call: Callable[[], T], what: str) -> T:
        """Return what a call returns, as soon as the storage answers it."""
        pause, began = 0.5, time.monotonic()
        while True:
            try:
                answer = call()
            except (FileNotFoundError, FileExistsError):
                self._answered()
                raise
            except Exception as error:  # noqa: BLE001 - tried again, or raised as ours
                kind, words = type(error).__name__, " ".join(str(error).split())[:200]
                reason = kind if self.private else f"{kind}: {words}"
                # What a library says of a file names it.
                cause = None if self.private else error
                if isinstance(error, PermissionError) or _is_for_good(error):
                    raise ServiceError(
                        f"{self.address} cannot be used ({what}: {reason}); check AWS_ACCESS_KEY_ID, "
                        "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3 and AWS_CA_BUNDLE"
                    ) from cause
                if time.monotonic() - began >= self.patience:
                    raise ServiceError(
                        f"{self.address} has not answered for {self.patience:.0f} s ({what}: {reason}); what "
                        "is finished is kept, and the same command goes on from there when it answers again"
                    ) from cause
                self._failed(f"{what}: {reason}")
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            else:
                self._answered()
                return answer

    def _failed(self, what: str) -> None:
        with self.lock:
            if self.silent_since is None:
                self.silent_since = time.monotonic()
                logger.warning(
                    "%s does not answer (%s); trying again for up to %.0f s",
                    self.address,
                    what,
                    self.patience,
                )

    def _answered(self) -> None:
        with self.lock:
            if self.silent_since is not None:
                silent = time.monotonic() - self.silent_since
                self.silent_since = None
                logger.warning("%s answers again after %.0f s; nothing was lost", self.address, silent)


def _fill(path: Path, mode: str, data: bytes) -> None:
    """Write a file whole, and to the disk, or leave none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as opened:
        try:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _open(address: str, timeout: float) -> tuple[Any, str]:
    import fsspec

    if not address.startswith(("s3://", "s3a://")):
        options: dict[str, Any] = {} if "://" in address else {"auto_mkdir": True}
        files, root = fsspec.core.url_to_fs(address, **options)
        return files, root
    # botocore's own patience is short: ours is longer, and says what it waits for.
    settings: Mapping[str, Any] = {
        "connect_timeout": min(timeout, 10.0),
        "read_timeout": timeout,
        "retries": {"total_max_attempts": 1},
    }
    files, root = fsspec.core.url_to_fs(address, config_kwargs=settings, use_listings_cache=False)
    # s3fs's own patience, as botocore's.
    files.retries = 1
    return files, root


_FOR_GOOD = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ParamValidationError",
    "UnknownServiceError",
}
"""Errors of botocore that no waiting mends."""


def _is_for_good(error: BaseException | None) -> bool:
    """Return whether no waiting mends an error; a certificate that is not trusted may lie under others."""
    if error is None:
        return False
    if type(error).__name__ in _FOR_GOOD or isinstance(error, ssl.SSLCertVerificationError):
        return True
    return "CERTIFICATE_VERIFY_FAILED" in str(error) or _is_for_good(error.__cause__ or error.__context__)

"""What several machines share of their trials: results, checkpoints and claims, under one prefix.

The prefix is a folder or bucket that fsspec can reach, `TTL_STORE`. In it, `<trial_id>/result.json` says in
which folder beside it the files of that result lie: it is written last and replaced in one step, so that a
result is whole or absent, on storage without renames too.
"""

import functools
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from ttl.errors import ServiceError, TrialError
from ttl.files import sha256
from ttl.patience import patience as waiting
from ttl.patience import seconds
from ttl.training import checkpoint

# fsspec's implementations take a while to import, and most sweeps need none.
# ruff: noqa: PLC0415

logger = logging.getLogger(__name__)

VARIABLE = "TTL_STORE"
LEASE_VARIABLE = "TTL_LEASE_SECONDS"

LEASE = 10.0
"""Seconds without a sign of life after which a claim is void."""

RESULT, AT = "result.json", "at"

_HARDLY = {"connect_timeout": 10, "read_timeout": 15, "retries": {"total_max_attempts": 1}}
"""botocore's own patience: ours is longer, and says what it waits for."""

_AT_ONCE = 4
"""Files of a result that are written side by side."""

_TIMEOUTS = ("connect_timeout", "read_timeout")

T = TypeVar("T")


class Store:
    """The trials under one prefix, `address`. Each call waits out a storage that fails to answer for a while.

    Raises `ServiceError` when it has not answered for `patience` seconds, and at once for what no waiting
    mends: a missing bucket, refused credentials.
    """

    def __init__(self, address: str, *, patience: float | None = None, lease: float | None = None) -> None:
        self.address = address
        self.patience = waiting() if patience is None else patience
        self.lease = seconds(LEASE_VARIABLE, LEASE) if lease is None else lease
        hardly, quickly = _HARDLY, {**_HARDLY, **dict.fromkeys(_TIMEOUTS, self.lease / 4)}
        try:
            self.files, self.root = _open(address, hardly)
            # For signs of life: one that hangs must not keep the next from coming in time.
            self.quick, _ = _open(address, quickly)
        except (ValueError, ImportError) as error:
            raise ServiceError(f"{VARIABLE} is {address!r}, which is no folder or bucket: {error}") from error
        self.local = "file" in self.files.protocol
        self.watched: dict[str, _Watch] = {}
        self.silent_since: float | None = None
        self.lock = threading.Lock()

    def result(self, trial_id: str) -> dict[str, Any] | None:
        """Return a trial's result, None if there is none yet."""
        found = self._pointer(trial_id)
        return None if found is None else {name: value for name, value in found.items() if name != AT}

    def trials(self) -> set[str]:
        """Return the ids of all trials that have left something here."""
        names = self._patiently(lambda: self._list(self.root), f"listing {self.address}")
        return {name for name in names if not name.startswith(".")}

    def get(self, trial_id: str, folder: Path, names: Sequence[str]) -> dict[str, Any]:
        """Put those of a result's files into a folder that it has and that are named; return the result.

        Raises `TrialError` for a file that is not what the result says.
        """
        while True:
            pointer = self._pointer(trial_id)
            if pointer is None:
                raise TrialError(f"{self.address} has no result of trial {trial_id} any more")
            at = f"{self.root}/{trial_id}/{pointer.pop(AT)}"
            wanted = [name for name in names if name in pointer["files"]]
            try:
                for name in wanted:
                    self._get(f"{at}/{name}", folder / name)
            except FileNotFoundError:
                # It may have been replaced meanwhile; if not, something of it was lost.
                if self._pointer(trial_id) == {**pointer, AT: at.rpartition("/")[2]}:
                    raise TrialError(
                        f"{at} lacks files of its result: delete {self.root}/{trial_id}"
                    ) from None
                continue
            for name in wanted:
                if sha256(folder / name) != pointer["files"][name]:
                    raise TrialError(
                        f"{at}/{name} is damaged: delete {self.root}/{trial_id} to train it again"
                    )
            return pointer

    def put(self, trial_id: str, folder: Path, result: Mapping[str, Any]) -> None:
        """Make the folder's files and the result what is known of a trial; what was known before goes."""
        before = self._pointer(trial_id)
        place, at = f"{self.root}/{trial_id}", uuid4().hex[:8]
        with ThreadPoolExecutor(_AT_ONCE) as several:
            for written in [
                several.submit(self._write, f"{place}/{at}/{name}", (folder / name).read_bytes())
                for name in result["files"]
            ]:
                written.result()
        self._write(f"{place}/{RESULT}", json.dumps({AT: at, **result}, indent=2).encode())
        if before is not None:
            self._remove(f"{place}/{before[AT]}", folder=True)

    def put_checkpoint(self, trial_id: str, path: Path) -> None:
        """Add a checkpoint; older ones than the one before it go."""
        folder = f"{self.root}/.checkpoints/{trial_id}"
        self._write(f"{folder}/{path.name}", path.read_bytes())
        for name in self._checkpoints(trial_id)[checkpoint.KEPT :]:
            self._remove(f"{folder}/{name}")

    def bring_checkpoint(self, trial_id: str, folder: Path, *, newer_than: int) -> None:
        """Put a trial's newest whole checkpoint into a folder, if it is of a later epoch than this."""
        for name in self._checkpoints(trial_id):
            if checkpoint.epoch_of(name) <= newer_than:
                return
            aside = folder / "checkpoint.new"
            with suppress(FileNotFoundError):
                self._get(f"{self.root}/.checkpoints/{trial_id}/{name}", aside)
                aside.replace(folder / name)
                if checkpoint.whole(folder / name):
                    return
                logger.warning(
                    "%s/.checkpoints/%s/%s is damaged; the one before is used", self.address, trial_id, name
                )
                (folder / name).unlink()

    def forget_checkpoints(self, trial_id: str) -> None:
        """Remove a trial's checkpoints."""
        self._remove(f"{self.root}/.checkpoints/{trial_id}", folder=True)

    @contextmanager
    def claim(self, trial_id: str, *, wait: bool) -> Iterator[bool]:
        """Keep all other machines from working on the trial meanwhile; yield whether that is so.

        A claim is an object that exactly one machine can create. While it holds, its holder rewrites it four
        times in `lease` seconds; when whoever wants it has seen no change for so long, it is void, and the
        next one may be created. No clock is compared with another machine's.
        """
        claim = self._claimed(trial_id)
        while claim is None and wait:
            time.sleep(self.lease / 4)
            claim = self._claimed(trial_id)
        if claim is None:
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=self._beat, args=(*claim, done), name=f"claim-{trial_id}", daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            folder, _, number = claim[0].rpartition("/")
            with suppress(Exception):
                for name in self._list(folder, quick=True):
                    if int(name) <= int(number):
                        self._let_go(f"{folder}/{name}")

    def _claimed(self, trial_id: str) -> tuple[str, str] | None:
        """Return the path of a claim just made, and its holder; None if somebody else has one."""
        folder = f"{self.root}/.claims/{trial_id}"
        numbers = [int(name) for name in self._patiently(lambda: self._list(folder), f"listing {folder}")]
        newest = max(numbers, default=-1)
        if newest >= 0 and not self._void(f"{folder}/{newest}"):
            return None
        path, holder = f"{folder}/{newest + 1}", f"{socket.gethostname()} {os.getpid()} {uuid4().hex[:8]}"
        content = json.dumps({"holder": holder, "beat": 0}).encode()
        with suppress(FileExistsError):
            self._create(path, content)
        # It may be our own that exists, if only the answer was lost; and of storage that cannot create
        # exclusively, the last to write has it.
        if self._content(path) != content:
            return None
        if not self._alone(folder, newest, newest + 1):
            self._let_go(path)
            return None
        return path, holder

    def _alone(self, folder: str, void: int, mine: int) -> bool:
        """Return whether beside my claim there is none but the one that was void."""
        for number in {
            int(name) for name in self._patiently(lambda: self._list(folder), f"listing {folder}")
        }:
            if number == mine:
                continue
            watch = self.watched.get(f"{folder}/{number}")
            if number != void or watch is None or self._content(f"{folder}/{number}") != watch.content:
                return False
        return True

    def _content(self, path: str) -> bytes | None:
        try:
            found: bytes = self._patiently(lambda: self.files.cat_file(path), f"reading {path}")
        except FileNotFoundError:
            return None
        return found

    def _let_go(self, path: str) -> None:
        """Remove a claim, at one try: it goes void by itself."""
        with suppress(Exception):
            self.quick.rm_file(path)

    def _void(self, path: str) -> bool:
        """Return whether a claim shows no sign of life: three looks, none of them failed, saw no change."""
        try:
            content: bytes = self.quick.cat_file(path)
        except Exception:  # noqa: BLE001 - whatever kept us from looking kept its holder from writing
            self.watched.pop(path, None)
            return False
        watch, now = self.watched.get(path), time.monotonic()
        if watch is None or watch.content != content or now - watch.last > self.lease:
            self.watched[path] = _Watch(content, now, now, 1)
            return False
        watch.looks, watch.last = watch.looks + 1, now
        return watch.looks >= 3 and now - watch.since > self.lease

    def _beat(self, path: str, holder: str, done: threading.Event) -> None:
        beat, (folder, _, number) = 0, path.rpartition("/")
        while not done.wait(self.lease / 4):
            beat += 1
            with suppress(Exception):
                self.quick.pipe_file(path, json.dumps({"holder": holder, "beat": beat}).encode())
                if max(map(int, self._list(folder, quick=True))) > int(number):
                    logger.warning("%s: another machine took this one for dead, and works on it too", folder)
                    return

    def _pointer(self, trial_id: str) -> dict[str, Any] | None:
        path = f"{self.root}/{trial_id}/{RESULT}"
        try:
            values: dict[str, Any] = json.loads(
                self._patiently(lambda: self.files.cat_file(path), f"reading {path}")
            )
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise TrialError(f"{path} is damaged ({error}); delete it to train the trial again") from error
        return values

    def _checkpoints(self, trial_id: str) -> list[str]:
        folder = f"{self.root}/.checkpoints/{trial_id}"
        names = self._patiently(lambda: self._list(folder), f"listing {folder}")
        return sorted(
            (n for n in names if checkpoint.epoch_of(n) >= 0), key=checkpoint.epoch_of, reverse=True
        )

    def _list(self, folder: str, *, quick: bool = False) -> list[str]:
        files = self.quick if quick else self.files
        files.invalidate_cache()
        try:
            return [str(path).rstrip("/").rpartition("/")[2] for path in files.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _get(self, path: str, target: Path) -> None:
        target.write_bytes(self._patiently(lambda: self.files.cat_file(path), f"reading {path}"))

    def _write(self, path: str, data: bytes) -> None:
        def write() -> None:
            if self.local:
                aside = f"{path}.{uuid4().hex[:8]}.new"
                self.files.pipe_file(aside, data)
                Path(aside).replace(path)
            else:
                self.files.pipe_file(path, data)

        try:
            self._patiently(write, f"writing {path}")
        except FileNotFoundError as error:
            raise self._missing() from error

    def _create(self, path: str, data: bytes) -> None:
        """Write what is not there yet. Raises `FileExistsError` if it is."""

        def create() -> None:
            try:
                with self.files.open(path, "xb") as file:
                    file.write(data)
            except OSError as error:
                # Not every server says which condition was not met.
                if "PreconditionFailed" in str(error.__cause__ or error):
                    raise FileExistsError(path) from error
                raise

        try:
            self._patiently(create, f"writing {path}")
        except FileNotFoundError as error:
            raise self._missing() from error

    def _missing(self) -> ServiceError:
        return ServiceError(
            f"{VARIABLE} is {self.address}, which does not exist; make the bucket, or name another"
        )

    def _remove(self, path: str, *, folder: bool = False) -> None:
        with suppress(FileNotFoundError):
            if folder:
                self._patiently(lambda: self.files.rm(path, recursive=True), f"removing {path}")
            else:
                self._patiently(lambda: self.files.rm_file(path), f"removing {path}")

    def _patiently(self, call: Callable[[], T], what: str) -> T:
        """Return what a call returns, as soon as the storage answers it."""
        pause, began = 0.5, time.monotonic()
        while True:
            try:
                answer = call()
            except (FileNotFoundError, FileExistsError):
                self._answered()
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                if isinstance(error, PermissionError) or _is_for_good(error):
                    raise ServiceError(
                        f"{self.address} cannot be used ({what}: {reason}); check AWS_ACCESS_KEY_ID, "
                        "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3 and AWS_CA_BUNDLE"
                    ) from error
                if time.monotonic() - began > self.patience:
                    raise ServiceError(
                        f"{self.address} has not answered for {self.patience:.0f} s ({what}: {reason}); what "
                        "is finished is kept, and the same command goes on from there when it answers again"
                    ) from error
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


def _open(address: str, settings: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    if not address.startswith(("s3://", "s3a://")):
        options: dict[str, Any] = {} if "://" in address else {"auto_mkdir": True}
        files, root = fsspec.core.url_to_fs(address, **options)
        return files, root
    files, root = fsspec.core.url_to_fs(address, config_kwargs=dict(settings), use_listings_cache=False)
    # s3fs's own patience, as botocore's.
    files.retries = 1
    return files, root


@functools.cache
def open_store(address: str) -> Store:
    """Return the store at an address: one for each process, since it knows whose claims it has watched."""
    return Store(address)


def shared_store() -> Store | None:
    """Return the store that `TTL_STORE` names, None if it names none."""
    address = os.environ.get(VARIABLE)
    return open_store(address) if address else None


@dataclass(slots=True)
class _Watch:
    content: bytes
    since: float
    last: float
    looks: int


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

"""What several machines share of their trials: results, checkpoints and claims, under one prefix.

The prefix is a folder or bucket that fsspec can reach, `TTL_STORE`. In it, `<trial_id>/result.json` says in
which folder beside it the files of that result lie: it is written last and replaced in one step, so that a
result is whole or absent, on storage without renames too.
"""

import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ttl.bucket import Bucket
from ttl.errors import ServiceError, TrialError
from ttl.files import sha256
from ttl.patience import patience as waiting
from ttl.patience import seconds
from ttl.training import checkpoint
from ttl.training.claims import Claims

logger = logging.getLogger(__name__)

VARIABLE = "TTL_STORE"
LEASE_VARIABLE = "TTL_LEASE_SECONDS"

LEASE = 10.0
"""Seconds without a sign of life after which a claim is void."""

RESULT, AT = "result.json", "at"
CHECKPOINTS = ".checkpoints"

_AT_ONCE = 4
"""Files of a result that are written side by side."""


class Store:
    """The trials under one prefix, `address`; every call waits, and raises, as those of `Bucket` do."""

    def __init__(self, address: str, *, patience: float | None = None, lease: float | None = None) -> None:
        try:
            self.bucket = Bucket(address, patience=waiting() if patience is None else patience)
        except ServiceError as error:
            raise ServiceError(f"{VARIABLE}: {error}") from error
        self.claims = Claims(self.bucket, seconds(LEASE_VARIABLE, LEASE) if lease is None else lease)
        self.address = address

    def result(self, trial_id: str) -> dict[str, Any] | None:
        """Return a trial's result, None if there is none yet."""
        found = self._pointer(trial_id)
        return None if found is None else {name: value for name, value in found.items() if name != AT}

    def trials(self) -> set[str]:
        """Return the ids of all trials that have left something here."""
        return {name for name in self.bucket.names() if not name.startswith(".")}

    def get(self, trial_id: str, folder: Path, names: Sequence[str]) -> dict[str, Any]:
        """Put those of a result's files into a folder that it has and that are named; return the result.

        Raises `TrialError` for a file that is not what the result says.
        """
        place = f"{self.address}/{trial_id}"
        while True:
            pointer = self._pointer(trial_id)
            if pointer is None:
                raise TrialError(f"{self.address} has no result of trial {trial_id} any more")
            at = pointer.pop(AT)
            wanted = [name for name in names if name in pointer["files"]]
            try:
                for name in wanted:
                    (folder / name).write_bytes(self.bucket.read(f"{trial_id}/{at}/{name}"))
            except FileNotFoundError:
                # It may have been replaced meanwhile; if not, something of it was lost.
                if self._pointer(trial_id) == {**pointer, AT: at}:
                    raise TrialError(f"{place}/{at} lacks files of its result: delete {place}") from None
                continue
            for name in wanted:
                if sha256(folder / name) != pointer["files"][name]:
                    raise TrialError(f"{place}/{at}/{name} is damaged: delete {place} to train it again")
            return pointer

    def put(self, trial_id: str, folder: Path, result: Mapping[str, Any]) -> None:
        """Make the folder's files and the result what is known of a trial; what was known before goes."""
        before, at = self._pointer(trial_id), uuid4().hex[:8]
        with ThreadPoolExecutor(_AT_ONCE) as several:
            for written in [
                several.submit(self.bucket.write, f"{trial_id}/{at}/{name}", (folder / name).read_bytes())
                for name in result["files"]
            ]:
                written.result()
        self.bucket.write(f"{trial_id}/{RESULT}", json.dumps({AT: at, **result}, indent=2).encode())
        if before is not None:
            self.bucket.remove(f"{trial_id}/{before[AT]}", folder=True)

    def put_checkpoint(self, trial_id: str, path: Path) -> None:
        """Add a checkpoint; older ones than the one before it go."""
        self.bucket.write(f"{CHECKPOINTS}/{trial_id}/{path.name}", path.read_bytes())
        for name in self._checkpoints(trial_id)[checkpoint.KEPT :]:
            self.forget_checkpoint(trial_id, name)

    def bring_checkpoint(self, trial_id: str, folder: Path, *, newer_than: int) -> None:
        """Put a trial's newest whole checkpoint into a folder, if it is of a later epoch than this."""
        for name in self._checkpoints(trial_id):
            if checkpoint.epoch_of(name) <= newer_than:
                return
            aside, there = folder / "checkpoint.new", f"{CHECKPOINTS}/{trial_id}/{name}"
            with suppress(FileNotFoundError):
                aside.write_bytes(self.bucket.read(there))
                aside.replace(folder / name)
                if checkpoint.whole(folder / name):
                    return
                logger.warning("%s/%s is damaged; the one before is used", self.address, there)
                (folder / name).unlink()

    def forget_checkpoint(self, trial_id: str, name: str) -> None:
        """Remove one checkpoint of a trial."""
        self.bucket.remove(f"{CHECKPOINTS}/{trial_id}/{name}")

    def forget_checkpoints(self, trial_id: str) -> None:
        """Remove a trial's checkpoints."""
        self.bucket.remove(f"{CHECKPOINTS}/{trial_id}", folder=True)

    def claim(self, trial_id: str, *, wait: bool) -> AbstractContextManager[bool]:
        """Keep all other machines from working on the trial meanwhile; yield whether that is so."""
        return self.claims.hold(trial_id, wait=wait)

    def _pointer(self, trial_id: str) -> dict[str, Any] | None:
        path = f"{trial_id}/{RESULT}"
        try:
            values: dict[str, Any] = json.loads(self.bucket.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise TrialError(
                f"{self.address}/{path} is damaged ({error}); delete it to train the trial again"
            ) from error
        return values

    def _checkpoints(self, trial_id: str) -> list[str]:
        names = self.bucket.names(f"{CHECKPOINTS}/{trial_id}")
        return sorted(
            (n for n in names if checkpoint.epoch_of(n) >= 0), key=checkpoint.epoch_of, reverse=True
        )


@functools.cache
def open_store(address: str) -> Store:
    """Return the store at an address: one for each process, since it knows whose claims it has watched."""
    return Store(address)


def shared_store() -> Store | None:
    """Return the store that `TTL_STORE` names, None if it names none."""
    address = os.environ.get(VARIABLE)
    return open_store(address) if address else None

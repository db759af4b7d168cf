"""Claims: a machine's word to the others that it works on something, in a bucket that is all they share."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from ttl.bucket import Bucket

logger = logging.getLogger(__name__)

FOLDER = ".claims"


class Claims:
    """Claims under one address.

    A claim is an object that exactly one machine can create. While it holds, its holder rewrites it four
    times in `lease` seconds; when whoever wants it has seen no change for so long, it is void, and the next
    one may be created. No clock is compared with another machine's.

    Args:
        bucket: where they lie.
        lease: seconds without a sign of life after which a claim is void.

    """

    def __init__(self, bucket: Bucket, lease: float) -> None:
        self.bucket = bucket
        self.lease = lease
        # For signs of life: one that hangs must not keep the next from coming in time.
        self.quick = Bucket(bucket.address, patience=0, timeout=lease / 4)
        self.watched: dict[str, _Watch] = {}

    @contextmanager
    def hold(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Keep all other machines from what has this name meanwhile; yield whether that is so."""
        claim = self.take(name)
        while claim is None and wait:
            time.sleep(self.lease / 4)
            claim = self.take(name)
        if claim is None:
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=self._beat, args=(claim, done), name=f"claim-{name}", daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            with suppress(Exception):
                self._release(claim)

    def take(self, name: str) -> "Claim | None":
        """Return a claim just made, None if somebody else has one. Nobody keeps it alive yet."""
        folder = f"{FOLDER}/{name}"
        numbers = sorted(_numbers(self.bucket, folder))
        paths = [f"{folder}/{number}" for number in numbers]
        void = {path: self.watched[path].content for path in paths if self._void(path)}
        if len(void) < len(paths):
            return None
        holder = f"{socket.gethostname()} {os.getpid()} {uuid4().hex[:8]}"
        claim = Claim(folder, max(numbers, default=-1) + 1, holder, void)
        with suppress(FileExistsError):
            self.bucket.create(claim.path, claim.content(0))
        # It may be our own that exists, if only the answer was lost; and of storage that cannot create
        # exclusively, the last to write has it.
        if self._content(self.bucket, claim.path) != claim.content(0):
            return None
        if not self._alone(claim):
            with suppress(Exception):
                self.quick.remove(claim.path)
            return None
        return claim

    def _alone(self, claim: "Claim") -> bool:
        """Return whether beside a claim there are none but those that were void, and still are."""
        for number in _numbers(self.bucket, claim.folder):
            path = f"{claim.folder}/{number}"
            if path != claim.path and (
                path not in claim.void or self._content(self.bucket, path) != claim.void[path]
            ):
                return False
        return True

    def _release(self, claim: "Claim") -> None:
        """Remove a claim and the void ones before it, at one try: else they go void, or stay so."""
        for path, content in claim.void.items():
            if self._content(self.quick, path) == content:
                self.quick.remove(path)
        if claim.made(self._content(self.quick, claim.path)):
            self.quick.remove(claim.path)

    def _content(self, bucket: Bucket, path: str) -> bytes | None:
        try:
            return bucket.read(path)
        except FileNotFoundError:
            return None

    def _void(self, path: str) -> bool:
        """Return whether a claim shows no sign of life: three looks, none of them failed, saw no change."""
        try:
            content = self.quick.read(path)
        except Exception:  # noqa: BLE001 - whatever kept us from looking may have kept its holder from writing
            self.watched.pop(path, None)
            return False
        watch, now = self.watched.get(path), time.monotonic()
        if watch is None or watch.content != content or now - watch.last > self.lease:
            self.watched[path] = _Watch(content, now, now, 1)
            return False
        watch.looks, watch.last = watch.looks + 1, now
        return watch.looks >= 3 and now - watch.since > self.lease

    def _beat(self, claim: "Claim", done: threading.Event) -> None:
        beat, last, followed = 0, time.monotonic(), False
        text = "%s: another machine took this one for dead, and works on it too"
        while not done.wait(self.lease / 4):
            beat += 1
            try:
                # What a machine finds that was suspended for a while may be another's of the same number.
                if not claim.made(self._content(self.quick, claim.path)):
                    logger.warning(text, claim.folder)
                    return
            except Exception:  # noqa: BLE001 - it costs a sign of life only where another may have followed
                if time.monotonic() - last > self.lease:
                    continue
            with suppress(Exception):
                self.quick.rewrite(claim.path, claim.content(beat))
                last = time.monotonic()
            with suppress(Exception):
                if not followed and max(_numbers(self.quick, claim.folder)) > claim.number:
                    followed = True
                    logger.warning(text, claim.folder)


@dataclass(frozen=True, slots=True)
class Claim:
    """One machine's claim: the file `number` in the folder of what it claims.

    `void` are those beside it that it took for void, and what they said.
    """

    folder: str
    number: int
    holder: str
    void: Mapping[str, bytes]

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"{self.folder}/{self.number}"

    def content(self, beat: int) -> bytes:
        """Return what it says at a beat, in as many bytes as at any other."""
        return json.dumps({"holder": self.holder, "beat": f"{beat:012d}"}).encode()

    def made(self, content: bytes | None) -> bool:
        """Return whether it is this claim that says so."""
        return content is not None and json.dumps(self.holder).encode() in content


@dataclass(slots=True)
class _Watch:
    content: bytes
    since: float
    last: float
    looks: int


def _numbers(bucket: Bucket, folder: str) -> list[int]:
    return [int(name) for name in bucket.names(folder) if name.isdigit()]

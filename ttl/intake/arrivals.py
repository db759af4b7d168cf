"""What has arrived for a dataset: drops to take, and those that wait, with what they wait for."""

import datetime
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttl.data.dataset import INFO, PackedDataset
from ttl.errors import DataError, ServiceError
from ttl.intake.append import Delivery, append
from ttl.intake.check import check_drop
from ttl.intake.drop import Drop
from ttl.intake.identity import Pseudonyms
from ttl.intake.incoming import find_drops, reach
from ttl.intake.received import Taken
from ttl.intake.similar import Known
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """`ready` are whole drops that were not taken yet; `waiting` are others, by place, and what they lack."""

    ready: tuple[Drop, ...]
    waiting: tuple[tuple[str, str], ...]


def look(spec: IntakeSpec, done: Collection[str]) -> Arrivals:
    """Look at what lies in `spec.incoming`. Raises `ServiceError` if that cannot be listed.

    A drop is known by the digest of its manifest: one that is `done` is left, and one that has grown since
    comes again under its new manifest, when what came before is refused as a duplicate. A drop that cannot
    be read, or not judged as a whole, waits; it keeps no other from being taken.
    """
    found, seen = find_drops(spec.incoming), set(done)
    ready: list[Drop] = []
    waiting = list(found.waiting)
    for drop in found.drops:
        try:
            if drop.digest in seen:
                continue
            lacking = drop.lacking()
        except DataError as error:
            waiting.append((drop.place, str(error)))
            continue
        except ServiceError as error:
            reach(spec.incoming)
            waiting.append((drop.place, str(error)))
            continue
        if lacking:
            waiting.append((drop.place, f"{len(lacking)} of its files have not come, or not whole"))
        else:
            ready.append(drop)
            seen.add(drop.digest)
    return Arrivals(ready=tuple(ready), waiting=tuple(sorted(waiting)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """The records of the drops that were `taken`, and those that could not be read, with the reason."""

    taken: tuple[Taken, ...] = ()
    waiting: tuple[tuple[str, str], ...] = ()


def take(
    name: str, spec: IntakeSpec, drops: Sequence[Drop], root: Path, *, pseudonyms: Pseudonyms, workers: int
) -> Brought:
    """Check drops file by file, and append what is accepted to the dataset in the folder `root`.

    A drop of which a file cannot be read is left to the next time, as a whole; the others are taken.
    """
    waiting: list[tuple[str, str]] = []
    left = list(drops)
    while left:
        try:
            records = _take(name, spec, left, root, pseudonyms=pseudonyms, workers=workers)
        except _UnreadError as error:
            reach(spec.incoming)
            waiting.append((error.drop.place, str(error)))
            left.remove(error.drop)
        else:
            return Brought(taken=tuple(records), waiting=tuple(waiting))
    return Brought(waiting=tuple(waiting))


class _UnreadError(Exception):
    """A file of a drop could not be read."""

    def __init__(self, drop: Drop, error: ServiceError) -> None:
        super().__init__(str(error))
        self.drop = drop


def _take(
    name: str, spec: IntakeSpec, drops: Sequence[Drop], root: Path, *, pseudonyms: Pseudonyms, workers: int
) -> list[Taken]:
    before = PackedDataset.open(root) if (root / INFO).is_file() else None
    known = Known.of(before)
    now = datetime.datetime.now(datetime.UTC)

    def checked(drop: Drop) -> Iterator[Checked]:
        try:
            yield from check_drop(drop, spec, known, pseudonyms, workers=workers)
        except ServiceError as error:
            raise _UnreadError(drop, error) from error

    deliveries = (
        Delivery(
            site=drop.site,
            drop=drop.name,
            digest=drop.digest,
            received_at=now,
            checked=checked(drop),
            hide=lambda path: pseudonyms.of("file", path),
        )
        for drop in drops
    )
    revision = "" if before is None else before.revision
    return append(name, spec, deliveries, root, compared_with=revision)

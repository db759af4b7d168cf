"""What has arrived for a dataset: drops to take, and those that wait, with what they wait for."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ttl.data.dataset import INFO, PackedDataset
from ttl.errors import DataError
from ttl.intake.append import Delivery, Taken, append, taken
from ttl.intake.check import check_drop
from ttl.intake.drop import Drop, find_drops, find_unfinished
from ttl.intake.identity import Pseudonyms
from ttl.intake.similar import Known
from ttl.intake.spec import IntakeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """`ready` are whole drops that were not taken yet; `waiting` are others, by place, and what they lack."""

    ready: tuple[Drop, ...]
    waiting: tuple[tuple[str, str], ...]


def look(spec: IntakeSpec, root: Path) -> Arrivals:
    """Look at what lies in `spec.incoming`, for the dataset in the folder `root`.

    A drop is known by the digest of its manifest: the same drop is taken once, and one that has grown since
    comes again under its new manifest, when what came before is refused as a duplicate.
    """
    done = {record.digest for record in taken(root)} if root.is_dir() else set()
    ready: list[Drop] = []
    waiting = [(place, "MANIFEST.csv has not come yet") for place in find_unfinished(spec.incoming)]
    for drop in find_drops(spec.incoming):
        place = f"{drop.site}/{drop.name}"
        try:
            if drop.digest in done:
                continue
            lacking = drop.lacking()
        except DataError as error:
            waiting.append((place, str(error)))
            continue
        if lacking:
            waiting.append((place, f"{len(lacking)} of its files have not come, or not whole"))
        else:
            ready.append(drop)
            done.add(drop.digest)
    return Arrivals(ready=tuple(ready), waiting=tuple(sorted(waiting)))


def take(
    name: str, spec: IntakeSpec, drops: tuple[Drop, ...], root: Path, *, pseudonyms: Pseudonyms, workers: int
) -> list[Taken]:
    """Check drops file by file, and append what is accepted to the dataset in the folder `root`."""
    known = Known.of(PackedDataset.open(root) if (root / INFO).is_file() else None)
    now = datetime.datetime.now(datetime.UTC)

    def deliveries() -> Iterator[Delivery]:
        for drop in drops:
            yield Delivery(
                site=drop.site,
                drop=drop.name,
                digest=drop.digest,
                received_at=now,
                checked=check_drop(drop, spec, known, pseudonyms, workers=workers),
                hide=lambda path: pseudonyms.of("file", path),
            )

    return append(name, spec, deliveries(), root)

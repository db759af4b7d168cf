"""What sites have dropped: the folders `<incoming>/<site>/<drop>/`, and which of them can be looked into."""

from dataclasses import dataclass

from ttl.bucket import Bucket
from ttl.errors import ServiceError
from ttl.intake.drop import MANIFEST, MISNAMED, NAME, PATIENCE, Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies under `<incoming>/<site>/<drop>/`: the `drops` that have a manifest, and what waits for what.

    `waiting` gives `<site>/<drop>`, or the site alone, with the reason. By site and name, all of it.
    """

    drops: tuple[Drop, ...]
    waiting: tuple[tuple[str, str], ...]


def find_drops(incoming: str) -> Found:
    """Return what sites have dropped. Raises `ServiceError` if `incoming` itself cannot be listed.

    A site or a drop that cannot be listed waits, and so does one whose name is not of `NAME`: names stand in
    commits and tags for good.
    """
    drops: list[Drop] = []
    waiting: list[tuple[str, str]] = []
    for site in reach(incoming):
        if not NAME.fullmatch(site):
            waiting.append(("a site", f"its {MISNAMED}"))
            continue
        try:
            names = _shown(Bucket(_join(incoming, site), patience=PATIENCE, private=True).folders())
        except ServiceError as error:
            reach(incoming)
            waiting.append((site, str(error)))
            continue
        for name in names:
            if not NAME.fullmatch(name):
                waiting.append((site, f"a drop's {MISNAMED}"))
                continue
            bucket = Bucket(_join(incoming, site, name), patience=PATIENCE, private=True)
            try:
                whole = MANIFEST in bucket.names()
            except ServiceError as error:
                reach(incoming)
                waiting.append((f"{site}/{name}", str(error)))
                continue
            if whole:
                drops.append(Drop(site, name, bucket))
            else:
                waiting.append((f"{site}/{name}", f"{MANIFEST} has not come yet"))
    return Found(drops=tuple(drops), waiting=tuple(waiting))


def reach(incoming: str) -> list[str]:
    """Return the names of the folders of sites. Raises `ServiceError` if they cannot be listed."""
    return _shown(Bucket(incoming, patience=PATIENCE, private=True).folders())


def _shown(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]


def _join(*parts: str) -> str:
    return "/".join(part.rstrip("/") for part in parts)

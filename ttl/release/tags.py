"""The tags of the registry, in GTO's format: reading them, and setting them against others who do too."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import gto.api
from gto.exceptions import GTOException
from scmrepo.exceptions import SCMError

from ttl.errors import ReleaseError
from ttl.release import vcs

FIRST_VERSION = "v1.0.0"
ATTEMPTS = 5

DECIDED = re.compile(r"^Decision: (approve|reject)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A tag of the registry: a version was registered, or a stage assigned to it, or either taken back.

    `when` is as the tag says, but never before the event that it followed: clocks differ.
    """

    dataset: str
    action: str
    version: str
    stage: str | None
    when: datetime
    commit: str
    author: str
    message: str
    tag: str


def read_events(root: Path, dataset: str | None = None) -> list[Event]:
    """Return the registry's events, the oldest first."""
    with _gto_errors():
        rows: list[dict[str, Any]] = gto.api.history(str(root), artifact=dataset)
    events = [
        Event(
            dataset=row["artifact"],
            action=row["event"],
            version=row["version"],
            stage=row["stage"],
            when=row["timestamp"],
            commit=row["commit"],
            author=f"{row['author']} <{row['author_email']}>",
            message=row["message"],
            tag=row["ref"],
        )
        for row in rows
    ]
    return in_order(events)


def in_order(events: Iterable[Event]) -> list[Event]:
    """Return events in the order in which they were made.

    That of an artifact's stages is GTO's counter, which whoever sets a tag has read from the others' tags;
    versions lie among them by their time. So a clock that is behind makes no later approval an earlier one.
    """
    latest: dict[str, datetime] = {}
    placed = []
    for event in sorted(events, key=lambda one: (_counter(one), one.when)):
        if _counter(event):
            latest[event.dataset] = max(event.when, latest.get(event.dataset, event.when))
            placed.append(replace(event, when=latest[event.dataset]))
        else:
            placed.append(event)
    return sorted(placed, key=lambda one: (one.when, _counter(one)))


def register(root: Path, dataset: str, commit: str, version: str | None, message: str) -> str:
    """Tag the commit as a version (one more than the newest unless told), and return the tag's name."""
    with _gto_errors():
        if version is None and not any(
            event.action == "registration" for event in read_events(root, dataset)
        ):
            version = FIRST_VERSION
        who = vcs.find_identity(root)
        made = gto.api.register(
            str(root), dataset, commit, version, message, author=who.name, author_email=who.email
        )
    return str(made.tag)


def assign(root: Path, dataset: str, version: str, stage: str, message: str) -> str:
    """Tag the version's commit with a stage, and return the tag's name."""
    with _gto_errors():
        who = vcs.find_identity(root)
        made = gto.api.assign(
            str(root),
            dataset,
            stage,
            version,
            message=message,
            # Without it GTO refuses the way back to a version that had the stage before.
            force=True,
            author=who.name,
            author_email=who.email,
        )
    return str(made.tag)


def unassign(root: Path, dataset: str, version: str, stage: str, message: str) -> str:
    """Tag the version's commit as one that has lost a stage, and return the tag's name."""
    with _gto_errors():
        who = vcs.find_identity(root)
        made = gto.api.unassign(
            str(root),
            dataset,
            version=version,
            stage=stage,
            message=message or f"Withdraw {stage} from {dataset}@{version}",
            # What was decided on a version stands even where its stage has gone to another.
            force=True,
            author=who.name,
            author_email=who.email,
        )
    return str(made.tag)


def publish(root: Path, dataset: str, remote: str | None, create: Callable[[], str | None]) -> str | None:
    """Set a tag and push it; when somebody else has just taken its name, set the next one.

    `create` is asked after each look at the others' tags; where it gives none, nothing is set. Without a
    remote the tag is only set. When the push fails for another reason, the tag is taken back.
    """
    for _ in range(ATTEMPTS):
        if remote:
            vcs.fetch_tags(root, remote, dataset)
        tag = create()
        if tag is None:
            return None
        if remote is None:
            return tag
        pushed = False
        try:
            event = next(one for one in read_events(root, dataset) if one.tag == tag)
            pushed = push(root, remote, event)
        finally:
            if not pushed:
                vcs.git(root, "tag", "--delete", tag)
        if pushed:
            return tag
    once = _mark_of(event)
    if once and vcs.is_pushed(root, str(remote), once):
        raise ReleaseError(
            f"{remote} has the mark {once} and no decision with it: if somebody has deleted the decision's "
            f"tag, delete its mark too (`git push {remote} ':refs/tags/{once}'`), and do this again"
        )
    raise ReleaseError(
        f"{remote} has a newer {tag} after {ATTEMPTS} attempts; wait for the others, then retry"
    )


def push(root: Path, remote: str, event: Event) -> bool:
    """Push the tag of an event; False if the remote has another, or another decision on the version."""
    return vcs.push_tag(root, remote, event.tag, _mark_of(event))


def _mark_of(event: Event) -> str | None:
    """Return the name of which a remote takes one: of all decisions on a version, one is carried out."""
    return f"decided/{event.dataset}/{event.version}" if DECIDED.search(event.message) else None


def _counter(event: Event) -> int:
    counter = re.search(r"#(\d+)$", event.tag)
    return int(counter[1]) if counter else 0


@contextmanager
def _gto_errors() -> Iterator[None]:
    try:
        yield
    except (GTOException, SCMError) as error:
        raise ReleaseError(f"the registry refused: {error}") from error

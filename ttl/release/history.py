"""What was live when, who approved it, and on which data: read from the registry's tags."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ttl.errors import ReleaseError
from ttl.release import registry, vcs
from ttl.release.registry import Release
from ttl.release.tags import Event

CHAMPION = "champion"

TRAILER = re.compile(
    r"^(Decision|Approved-By|Rejected-By|Reason|Rule|Evidence|Against|Flow-Run): (.*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A time (UTC) in which one version was the champion; `until` is None for the present one.

    `decision`, `approved_by`, `reason`, `rule` and `evidence` (SHA-256) are as the approval's tag has them,
    empty where a stage was assigned without; `set_by` is who made the tag.
    """

    dataset: str
    version: str
    since: datetime.datetime
    until: datetime.datetime | None
    approved_by: str
    reason: str
    rule: str
    evidence: str
    set_by: str
    network: str
    revision: str
    commit: str
    decision: str = ""


def history(dataset: str, *, repo: Path, day: datetime.date | None = None) -> list[Live]:
    """Return the champions of a dataset, the oldest first; of one `day` (UTC), those that were live on it.

    Raises `ReleaseError` for a dataset without a release.
    """
    releases = {one.version: one for one in registry.models(repo=repo) if one.dataset == dataset}
    events = registry.history(repo=repo, dataset=dataset)
    if not events:
        raise ReleaseError(f"nothing of {dataset!r} was released; `ttl models` lists the releases")
    found: list[Live] = []
    for event in events:
        if _ends(event, found):
            found[-1] = replace(found[-1], until=_aware(event.when))
        if event.stage != CHAMPION or event.action != "assignment":
            continue
        told, made = trailers(event.message), releases.get(event.version)
        found.append(
            Live(
                dataset=dataset,
                version=event.version,
                since=_aware(event.when),
                until=None,
                approved_by=told.get("Approved-By", ""),
                reason=told.get("Reason", ""),
                rule=told.get("Rule", ""),
                evidence=told.get("Evidence", ""),
                set_by=event.author,
                network=made.network if made else "",
                revision=made.revision if made else "",
                commit=event.commit,
                decision=told.get("Decision", ""),
            )
        )
    return found if day is None else [one for one in found if _live_on(one, day)]


def rollback(dataset: str, *, repo: Path, who: str, reason: str, push: bool = False) -> Release:
    """Make the champion before the present one champion again. Raises `ReleaseError` where there is none.

    The tag repeats the rule and the evidence by which that one was approved.
    """
    if not one_line(who) or not one_line(reason):
        raise ReleaseError("going back needs the name of who decides, and a reason")
    root = vcs.find_root(repo)
    if push:
        # The present champion may be one that only others know of yet.
        vcs.update_tags(root, dataset)
    now, before = _to_go_back(dataset, repo=repo)
    facts = {"Decision": "roll back", "Approved-By": who, "Reason": reason}
    facts |= {name: text for name, text in (("Rule", before.rule), ("Evidence", before.evidence)) if text}
    text = message(f"Roll back from {now}", facts)

    def check() -> bool:
        if _to_go_back(dataset, repo=repo) != (now, before):
            raise ReleaseError(f"the champion of {dataset} has changed meanwhile; look, and do this again")
        return True

    name = f"{dataset}@{before.version}"
    return registry.assign(name, CHAMPION, repo=repo, push=push, message=text, check=check)


def _to_go_back(dataset: str, *, repo: Path) -> tuple[str, Live]:
    """Return the version that is the champion, and the champion before it."""
    lived = history(dataset, repo=repo)
    if not lived or lived[-1].until is not None:
        raise ReleaseError(f"{dataset} has no champion: there is nothing to go back from")
    now = lived[-1].version
    # Not what came last before: after one rollback, a second one goes further back, and not forth again.
    first = next(place for place, one in enumerate(lived) if one.version == now)
    if first == 0:
        raise ReleaseError(f"{dataset} had no champion before {now}: there is none to go back to")
    return now, lived[first - 1]


def champion_version(dataset: str, *, repo: Path) -> str | None:
    """Return the version that is the champion, None where there is none."""
    return next(
        (
            one.version
            for one in registry.models(repo=repo)
            if one.dataset == dataset and CHAMPION in one.stages
        ),
        None,
    )


def message(title: str, told: Mapping[str, str]) -> str:
    """Return a tag's message: a title, and a line for each thing told.

    A line is a line: whatever a person has typed cannot begin another, nor steer a terminal.
    """
    return "\n".join([one_line(title), "", *(f"{name}: {one_line(text)}" for name, text in told.items())])


def one_line(text: str) -> str:
    """Return a text without line breaks, or anything else that cannot be seen."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def trailers(text: str) -> dict[str, str]:
    """Return what a tag's message tells, by name."""
    return dict(TRAILER.findall(text))


def _ends(event: Event, lived: Sequence[Live]) -> bool:
    """Return whether an event ends the time of the present champion, if there is one."""
    if not lived or lived[-1].until is not None:
        return False
    if event.action == "deregistration":
        return event.version == lived[-1].version
    if event.stage != CHAMPION:
        return False
    # The stage may be taken from a version that has lost it before.
    return event.action == "assignment" or event.version == lived[-1].version


def _live_on(one: Live, day: datetime.date) -> bool:
    start = datetime.datetime.combine(day, datetime.time(), tzinfo=datetime.UTC)
    until = one.until or datetime.datetime.max.replace(tzinfo=datetime.UTC)
    return one.since < start + datetime.timedelta(days=1) and until > start


def _aware(when: datetime.datetime) -> datetime.datetime:
    # The registry's times are local where they say no zone.
    return when.astimezone(datetime.UTC)

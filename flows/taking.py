"""Drops taken in: checked, appended, committed and pushed, once, against others who do so."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.dvc import pointer
from flows.revisions import commits, fetch_commits, is_committed, message_of, publish, pull_newest
from ttl.data.dataset import INFO, PackedDataset
from ttl.data.pack import settle
from ttl.errors import DataError, ServiceError, TTLError
from ttl.intake.arrivals import look, take
from ttl.intake.identity import Pseudonyms
from ttl.intake.received import Taken, taken
from ttl.intake.spec import IntakeSpec
from ttl.layout import Layout
from ttl.params import load_params

ATTEMPTS = 5
"""So often others may push in between before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What an intake has come to: the drops taken, those that wait and for what, and the revision now."""

    taken: tuple[Taken, ...]
    waiting: tuple[tuple[str, str], ...]
    revision: str


def take_drops(name: str, layout: Layout, *, own: bool, push: bool, again: bool = False) -> Intake:
    """Take the drops that have arrived for a dataset, and commit the new revision.

    `own` says that nobody else works in the folder: whatever is in it gives way to what others pushed.
    Killed at any point, it leaves the dataset as it was, or whole with the drops in it; the next run goes on.
    The drops that it tells of are those that were in no commit before, whoever had appended them; with
    `again`, said by whoever may have died before he told of them, those of the newest commit as well.
    """
    spec, root = load_params(layout.root / "params.yaml").intake_spec(name), layout.datasets / name
    pseudonyms = Pseudonyms.from_environment()
    for _ in range(ATTEMPTS):
        if own:
            fetch_commits(layout)
            if not again and (idle := _nothing_new(name, spec, layout)):
                return idle
            pull_newest(layout, name)
        settle(root)
        arrived = look(spec, [one.digest for one in taken(root)])
        brought = take(
            name, spec, arrived.ready, root, pseudonyms=pseudonyms, workers=len(os.sched_getaffinity(0))
        )
        waiting = tuple(sorted([*arrived.waiting, *brought.waiting]))
        if not (root / INFO).is_file():
            return Intake(taken=(), waiting=waiting, revision="")
        revision, history = PackedDataset.open(root).revision, commits(layout.root, name)
        new = [one for one in taken(root) if not is_committed(one, history)]
        if publish(layout, name, message_of(name, new, revision), push=push):
            before = [one for one in taken(root) if again and history and one.digest in history[0].drops]
            return Intake(taken=(*before, *new), waiting=waiting, revision=revision)
        if not own:
            raise DataError(
                f"others have pushed to the branch meanwhile; `git pull --rebase`, `dvc checkout {root}` and "
                "run this again: no drop is lost, and none is taken twice"
            )
    raise ServiceError(f"others pushed {ATTEMPTS} times while {name} was taken in; the next run tries again")


def _nothing_new(name: str, spec: IntakeSpec, layout: Layout) -> Intake | None:
    """Return what an intake comes to for which nothing has arrived, as the commits alone tell; else None."""
    history = commits(layout.root, name)
    if not (history and history[0].revision and pointer(layout, name).is_file()):
        return None
    arrived = look(spec, {digest for one in history for digest in one.drops})
    if arrived.ready:
        return None
    return Intake(taken=(), waiting=arrived.waiting, revision=history[0].revision)


def one_error(errors: Mapping[str, TTLError]) -> TTLError:
    """Return one error for those of several datasets: it may pass by itself if each of them may."""
    if len(errors) == 1:
        return next(iter(errors.values()))
    kind = ServiceError if all(isinstance(one, ServiceError) for one in errors.values()) else DataError
    return kind("; ".join(f"{name}: {error}" for name, error in errors.items()))


def told(record: Taken) -> str:
    """Return a line on a drop that was taken."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in record.reasons.items())
    return f"{record.site}/{record.drop}: {record.accepted} accepted; quarantined: {reasons or 'none'}"


def summary(intake: Intake) -> dict[str, Any]:
    """Return what a caller over Prefect's API needs to know of an intake."""
    return {
        "revision": intake.revision,
        "taken": [
            {"drop": f"{one.site}/{one.drop}", "accepted": one.accepted, "quarantined": one.reasons}
            for one in intake.taken
        ],
        "waiting": [{"drop": place, "reason": reason} for place, reason in intake.waiting],
    }

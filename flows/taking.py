"""Drops taken in: checked, appended, committed and pushed, once, against others who do so."""

import os
from dataclasses import dataclass
from typing import Any

from flows.revisions import catch_up, publish
from ttl.data.dataset import INFO, PackedDataset
from ttl.data.pack import settle
from ttl.errors import DataError, ServiceError
from ttl.intake.append import Taken, taken
from ttl.intake.arrivals import look, take
from ttl.intake.identity import Pseudonyms
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


def take_drops(name: str, layout: Layout, *, own: bool, push: bool) -> Intake:
    """Take the drops that have arrived for a dataset, and commit the new revision.

    `own` says that nobody else works in the folder: whatever is in it gives way to what others pushed.
    Killed at any point, it leaves the dataset as it was, or whole with the drops in it; the next run goes on.
    """
    spec, root = load_params(layout.root / "params.yaml").intake_spec(name), layout.datasets / name
    pseudonyms = Pseudonyms.from_environment()
    for _ in range(ATTEMPTS):
        if own:
            catch_up(layout, name)
        settle(root)
        arrived = look(spec, [one.digest for one in taken(root)])
        brought = take(
            name, spec, arrived.ready, root, pseudonyms=pseudonyms, workers=len(os.sched_getaffinity(0))
        )
        records, waiting = brought.taken, tuple(sorted([*arrived.waiting, *brought.waiting]))
        if not (root / INFO).is_file():
            return Intake(taken=(), waiting=waiting, revision="")
        title = f"{name}: {', '.join(f'{one.site}/{one.drop}' for one in records) or 'drops taken before'}"
        if publish(layout, name, title, push=push):
            return Intake(taken=records, waiting=waiting, revision=PackedDataset.open(root).revision)
        if not own:
            raise DataError(
                f"others have pushed to the branch meanwhile; `git pull --rebase`, `dvc checkout {root}` and "
                "run this again: no drop is lost, and none is taken twice"
            )
    raise ServiceError(f"others pushed {ATTEMPTS} times while {name} was taken in; the next run tries again")


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

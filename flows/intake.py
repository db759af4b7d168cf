"""The Prefect flow `ttl-intake`: what sites have dropped becomes a new revision, or is left with reasons."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.tasks import exponential_backoff
from ttl.intake.identity import Pseudonyms

from flows.datasets import may_pass
from flows.revisions import catch_up, publish
from ttl.data.dataset import INFO, PackedDataset
from ttl.errors import DataError, ServiceError
from ttl.intake.append import Taken
from ttl.intake.arrivals import look, take
from ttl.layout import Layout
from ttl.params import load_params

NEW_REVISION = "ttl.revision.new"
"""The event that tells others, such as the deployment of `ttl-retrain`, of new data."""

ATTEMPTS = 5
"""So often others may push in between before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What an intake has come to: the drops taken, those that wait and for what, and the revision now."""

    taken: tuple[Taken, ...]
    waiting: tuple[tuple[str, str], ...]
    revision: str


@flow(name="ttl-intake")
def ttl_intake(datasets: list[str] | None = None, push: bool | None = None) -> dict[str, Any]:
    """Take every whole drop that was not taken yet, once, however often this runs or dies.

    Args:
        datasets: names under `intake` in `params.yaml`; all if not given.
        push: whether files and commits are pushed; if not given, a deployment's run pushes, and one in a
            person's own folder does not.

    Returns a summary as plain values, without a name of a file.

    """
    logger, found = get_run_logger(), {}
    own = bool(runtime.deployment.id)
    for name in datasets or list(load_params().intake):
        intake = take_in(name, own=own, push=own if push is None else push)
        for place, reason in intake.waiting:
            logger.warning("%s: %s waits: %s", name, place, reason)
        for one in intake.taken:
            logger.info("%s: %s", name, told(one))
        if intake.taken:
            _publish_artifact(name, intake)
        if any(one.accepted for one in intake.taken):
            emit_event(
                NEW_REVISION,
                resource={"prefect.resource.id": f"ttl.dataset.{name}"},
                payload={"dataset": name, "revision": intake.revision},
            )
        found[name] = summary(intake)
    return found


@task(
    name="take in",
    task_run_name="take in drops of {name}",
    cache_policy=NO_CACHE,
    retries=4,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_condition_fn=may_pass,
)
def take_in(name: str, *, own: bool, push: bool) -> Intake:
    """Make what has arrived for a dataset a revision; where the network or the storage fail, try again."""
    return take_drops(name, Layout(root=Path.cwd()), own=own, push=push)


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
        arrived = look(spec, root)
        records: list[Taken] = []
        if arrived.ready:
            records = take(
                name, spec, arrived.ready, root, pseudonyms=pseudonyms, workers=len(os.sched_getaffinity(0))
            )
        if not (root / INFO).is_file():
            return Intake(taken=(), waiting=arrived.waiting, revision="")
        title = f"{name}: {', '.join(f'{one.site}/{one.drop}' for one in records) or 'drops taken before'}"
        if publish(layout, name, title, push=push):
            return Intake(
                taken=tuple(records), waiting=arrived.waiting, revision=PackedDataset.open(root).revision
            )
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


def _publish_artifact(name: str, intake: Intake) -> None:
    rows = [
        {"drop": f"{one.site}/{one.drop}", "accepted": one.accepted, **one.reasons} for one in intake.taken
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    create_table_artifact(
        key=f"ttl-intake-{name.replace('_', '-').lower()}",
        table=[{column: row.get(column, 0) for column in columns} for row in rows],
        description=f"Drops of {name} that were taken, with what was quarantined and why.",
    )

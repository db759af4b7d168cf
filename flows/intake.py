"""The Prefect flow `ttl-intake`: what sites have dropped becomes a new revision, or is left with reasons."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from flows.datasets import RETRIED
from flows.drift import drift_rows
from flows.progress import artifact_key
from flows.taking import Intake, one_error, summary, take_drops, told
from ttl.errors import TTLError
from ttl.layout import Layout
from ttl.params import load_params

NEW_REVISION = "ttl.revision.new"
"""The event that tells others, such as the deployment of `ttl-retrain`, of new data."""


@flow(name="ttl-intake")
def ttl_intake(datasets: list[str] | None = None, push: bool | None = None) -> dict[str, Any]:
    """Take every whole drop that was not taken yet, once, however often this runs or dies.

    Args:
        datasets: names under `intake` in `params.yaml`; all if not given.
        push: whether files and commits are pushed; if not given, a deployment's run pushes, and one in a
            person's own folder does not.

    Returns a summary as plain values, without a name of a file.

    """
    logger, layout = get_run_logger(), Layout(root=Path.cwd())
    own, found = bool(runtime.deployment.id), {}
    failed: dict[str, TTLError] = {}
    for name in datasets or list(load_params().intake):
        try:
            intake = take_in(name, own=own, push=own if push is None else push)
        except TTLError as error:
            # What is wrong with one dataset is not to keep another's drops waiting.
            logger.error("%s: %s", name, error)
            failed[name] = error
            continue
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
        _publish_drift(name, drift_rows(name, layout, intake.taken, own=own))
        found[name] = summary(intake)
    if failed:
        raise one_error(failed)
    return found


@task(name="take in", task_run_name="take in drops of {name}", **RETRIED)
def take_in(name: str, *, own: bool, push: bool) -> Intake:
    """Make what has arrived for a dataset a revision; where the network or the storage fail, try again.

    What was begun before may have been committed, and nobody told of it.
    """
    again = runtime.flow_run.run_count > 1 or runtime.task_run.run_count > 1
    return take_drops(name, Layout(root=Path.cwd()), own=own, push=push, again=again)


def _publish_artifact(name: str, intake: Intake) -> None:
    rows = [
        {"drop": f"{one.site}/{one.drop}", "accepted": one.accepted, **one.reasons} for one in intake.taken
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    create_table_artifact(
        key=artifact_key("intake", name),
        table=[{column: row.get(column, 0) for column in columns} for row in rows],
        description=f"Drops of {name} that were taken, with what was quarantined and why.",
    )


def _publish_drift(name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        create_table_artifact(
            key=artifact_key("drift", name),
            table=rows,
            description=(
                f"Whether the new images of {name} differ from what their sites had sent before. One drop in "
                "twenty seems to where nothing has changed; `rank` is how rare so much is, then."
            ),
        )

"""The Prefect flow `ttl-retrain`: a challenger on the newest data, judged, and a person who decides."""

from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.datasets import RETRIED
from flows.progress import artifact_key
from flows.proposals import Proposal, propose, standing
from flows.sweep import MOST_STARTS, ttl_sweep
from ttl.errors import ServiceError
from ttl.layout import Layout
from ttl.params import load_params
from ttl.release.decisions import decide

WEEKS = 6
"""So long a proposal waits for a person."""


class Decision(RunInput):
    """What a person says of a proposal. The page of the run asks for it."""

    decision: Literal["approve", "reject"]
    name: str = Field(min_length=2, description="Who decides.")
    reason: str = Field(min_length=2, description="Why: it stands in the registry for good.")


@flow(name="ttl-retrain", persist_result=True)
def ttl_retrain(
    dataset: str | None = None, full: bool | None = None, push: bool | None = None
) -> dict[str, Any]:
    """Sweep on the newest revision, judge what was selected against the champion, and have a person decide.

    A proposal is registered as a version and as the challenger before the run is suspended, so that it waits
    for weeks if need be, through restarts of everything; resumed, the run goes on from there.

    Args:
        dataset: a name under `intake` in `params.yaml`; may be left out where there is one alone.
        full: whether all cuts are looked at; if not given, on every so many revisions, as `gate.yaml` says.
        push: whether tags and files are pushed; if not given, a deployment's run does.

    Returns a summary as plain values.

    """
    logger, layout, own = get_run_logger(), Layout(root=Path.cwd()), bool(runtime.deployment.id)
    if runtime.flow_run.run_count > MOST_STARTS + WEEKS * 7:
        raise ServiceError("the run has been started too often; see its logs, and the worker's")
    push = own if push is None else push
    name, run_id = load_params().intake_name(dataset), str(runtime.flow_run.id)
    proposal = task(standing, **RETRIED)(layout, name, run_id) if own else None
    if proposal is None:
        proposal = propose(layout, name, full=full, own=own, push=push, run_id=run_id, sweep=ttl_sweep)
        for reason in proposal.reasons:
            logger.info("%s: %s: %s", name, proposal.outcome, reason)
    if proposal.evidence:
        publish_evidence(name, proposal)
    # What is not pushed is in this clone alone, which goes when the run is suspended.
    if proposal.outcome != "propose" or not (own and push):
        return proposal.to_dict()
    answer = suspend_flow_run(
        wait_for_input=Decision.with_initial_data(description=proposal.evidence),
        timeout=WEEKS * 7 * 24 * 3600,
        key=f"decision-{proposal.version.replace('.', '-')}",
    )
    # What she has decided does not hang on a git server that is away for a minute.
    decided = task(decide, **RETRIED)(
        name,
        proposal.version,
        repo=layout.root,
        decision=answer.decision,
        who=answer.name,
        reason=answer.reason,
        push=push,
    )
    logger.info("%s", decided)
    return {**proposal.to_dict(), "decision": answer.decision, "by": answer.name, "told": decided}


def publish_evidence(name: str, proposal: Proposal) -> None:
    """Show the evidence on the run's page."""
    create_markdown_artifact(
        key=artifact_key("evidence", name),
        markdown=proposal.evidence,
        description=f"{name}: {proposal.outcome}",
    )

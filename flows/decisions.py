"""Decisions: what a proposal says, and what a person has decided on it; none of it needs torch."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ttl.errors import ReleaseError
from ttl.layout import Layout
from ttl.release import registry, vcs
from ttl.release.evidence_files import FOLDER, MARKDOWN, VALUES
from ttl.release.history import message, trailers


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a retraining has come to. `version` is empty unless it is proposed; `evidence` is Markdown."""

    dataset: str
    outcome: str
    reasons: tuple[str, ...]
    revision: str
    evidence: str
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the evidence."""
        return {name: value for name, value in asdict(self).items() if name != "evidence"}


def standing(layout: Layout, name: str, run_id: str) -> Proposal | None:
    """Return the proposal that this very run has made before, None if it has made none."""
    remote = vcs.find_remote(layout.root)
    if remote is not None:
        vcs.fetch_tags(layout.root, remote, name)
    for event in registry.history(repo=layout.root, dataset=name):
        if event.action == "registration" and trailers(event.message).get("Flow-Run") == run_id:
            read = f"{event.tag}:{FOLDER}/{name}/"
            values = json.loads(vcs.git(layout.root, "show", read + VALUES))
            return Proposal(
                dataset=name,
                outcome=values["verdict"]["outcome"],
                reasons=tuple(values["verdict"]["reasons"]),
                revision=values["data"]["revision"],
                evidence=vcs.git(layout.root, "show", read + MARKDOWN),
                version=event.version,
            )
    return None


def decide(
    layout: Layout, name: str, *, version: str, decision: str, who: str, reason: str, push: bool
) -> str:
    """Carry out what a person has decided on a proposal, and return a sentence on what was done.

    It is safe to repeat: a decision that was carried out is left as it is. Raises `ReleaseError` for a
    version that the gate did not propose.
    """
    if decision not in ("approve", "reject"):
        raise ReleaseError(f"the decision is {decision!r}; it must be approve or reject")
    if not who.strip() or not reason.strip():
        raise ReleaseError("a decision needs the name of who decides, and a reason")
    event = _registration(layout, name, version)
    told = trailers(event.message)
    if "Rule" not in told:
        raise ReleaseError(f"{event.tag} was not proposed by the gate; `ttl models assign` assigns a stage")
    facts = {
        "Decision": decision,
        "Approved-By" if decision == "approve" else "Rejected-By": who,
        "Reason": reason,
        "Rule": told["Rule"],
        "Evidence": told.get("Evidence", ""),
    }
    text = message(f"{decision.capitalize()} {event.tag}", facts)
    if decision == "reject":
        registry.withdraw(f"{name}@{version}", "challenger", repo=layout.root, push=push, message=text)
        return f"{event.tag} is rejected by {who}: {reason}"
    live = registry.find(f"{name}@{version}", repo=layout.root)
    if "champion" not in live.stages:
        registry.assign(f"{name}@{version}", "champion", repo=layout.root, push=push, message=text)
    return f"{event.tag} is the champion, approved by {who}: {reason}"


def _registration(layout: Layout, name: str, version: str) -> Any:
    for event in registry.history(repo=layout.root, dataset=name):
        if event.action == "registration" and event.version == version:
            return event
    raise ReleaseError(f"there is no {name}@{version}; `ttl models` lists the releases")

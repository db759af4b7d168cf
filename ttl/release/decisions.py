"""The decision of a person on a proposal of the gate, kept in the registry's tags."""

from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ttl.errors import ReleaseError
from ttl.release import registry, vcs
from ttl.release.history import CHAMPION, champion_version, message, one_line, trailers
from ttl.release.tags import Event

Decision = Literal["approve", "reject"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

NOBODY = "none"
"""What a proposal was judged against where there was no champion."""


def decide(
    dataset: str, version: str, *, repo: Path, decision: str, who: str, reason: str, push: bool = False
) -> str:
    """Carry out what a person has decided on a proposal, and return a sentence on what was done.

    It is safe to repeat: a decision that was carried out is left as it is. Raises `ReleaseError` for a
    version that the gate did not propose, or on which another decision stands; for the approval of one that
    was judged against a champion who is no longer; and for the rejection of the champion.
    """
    if decision not in DECISIONS:
        raise ReleaseError(f"the decision is {decision!r}; it must be {' or '.join(DECISIONS)}")
    if not one_line(who) or not one_line(reason):
        raise ReleaseError("a decision needs the name of who decides, and a reason")
    root = vcs.find_root(repo)
    if push:
        # Others may have decided meanwhile.
        vcs.update_tags(root, dataset)
    made, earlier = _known(root, dataset, version)
    told = trailers(made.message)
    if "Rule" not in told:
        raise ReleaseError(f"{made.tag} was not proposed by the gate; `ttl models assign` assigns a stage")
    if earlier is not None:
        sentence = _stands(earlier, made, decision)
        if push:
            # Whoever set it may have died before the others had it.
            registry.push(earlier, repo=root)
        return sentence
    facts = {
        "Decision": decision,
        "Approved-By" if decision == "approve" else "Rejected-By": who,
        "Reason": reason,
        "Rule": told["Rule"],
        "Evidence": told.get("Evidence", ""),
    }
    text = message(f"{decision.capitalize()} {made.tag}", facts)
    to_do = partial(_is_to_do, root, made, decision)
    if decision == "reject":
        registry.withdraw(made.tag, "challenger", repo=root, push=push, message=text, check=to_do)
        done = f"{made.tag} is rejected by {who}: {reason}"
    else:
        registry.assign(made.tag, CHAMPION, repo=root, push=push, message=text, check=to_do)
        done = f"{made.tag} is the champion, approved by {who}: {reason}"
    _, stands = _known(root, dataset, version)
    assert stands is not None
    return done if stands.message.strip() == text.strip() else _stands(stands, made, decision)


def _is_to_do(root: Path, made: Event, decision: str) -> bool:
    """Return whether a decision is still to be carried out. Raises `ReleaseError` if it no longer can be."""
    _, earlier = _known(root, made.dataset, made.version)
    if earlier is not None:
        _stands(earlier, made, decision)
        return False
    champion = champion_version(made.dataset, repo=root)
    against = trailers(made.message).get("Against", NOBODY)
    if decision == "reject" and champion == made.version:
        raise ReleaseError(
            f"{made.tag} is the champion: `ttl models rollback {made.dataset}` goes back to the one before"
        )
    if decision == "approve" and champion not in (made.version, None if against == NOBODY else against):
        raise ReleaseError(
            f"{made.tag} was judged against {_named(against)}, and {_named(champion)} is the champion now: "
            "retrain, so that it is compared with that one"
        )
    return True


def _known(root: Path, dataset: str, version: str) -> tuple[Event, Event | None]:
    """Return the registration of a version, and the decision on it if there is one."""
    events = [one for one in registry.history(repo=root, dataset=dataset) if one.version == version]
    decided = (one for one in events if trailers(one.message).get("Decision") in DECISIONS)
    return _registration(events, dataset, version), next(decided, None)


def _registration(events: list[Event], dataset: str, version: str) -> Event:
    for event in events:
        if event.action == "registration":
            return event
    raise ReleaseError(f"there is no {dataset}@{version}; `ttl models` lists the releases")


def _stands(earlier: Event, made: Event, decision: str) -> str:
    told = trailers(earlier.message)
    who = told.get("Approved-By") or told.get("Rejected-By") or earlier.author
    done = {"approve": "approved", "reject": "rejected"}[told["Decision"]]
    sentence = f"{made.tag} was {done} by {who} on {earlier.when:%Y-%m-%d}"
    if told["Decision"] != decision:
        raise ReleaseError(f"{sentence}: that stands; to come to another decision, retrain")
    return f"{sentence} already: {told.get('Reason', '')}"


def _named(version: str | None) -> str:
    return "no champion" if version in (None, NOBODY) else str(version)

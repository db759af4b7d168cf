"""Proposals: a challenger made, judged and registered, and the decision of a person on it."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.dvc import run_dvc
from flows.revisions import newest_commit
from flows.workplace import narrow, workplace
from ttl.cache import cache_folder
from ttl.data.dataset import PackedDataset
from ttl.errors import DataError, ReleaseError
from ttl.evaluation.drift import DriftReport
from ttl.intake.append import taken
from ttl.layout import Layout
from ttl.release import registry, vcs
from ttl.release.description import fingerprint, read_description
from ttl.release.evidence import (
    FOLDER,
    MARKDOWN,
    PAGE,
    VALUES,
    Evidence,
    Model,
    evidence_sha256,
    write_evidence,
)
from ttl.release.gate import judge
from ttl.release.gate_rule import FILE, GateRule, RuleVersion, check_age, load_rule, rule_version
from ttl.release.history import message, trailers
from ttl.release.report import write_report
from ttl.release.testsets import rolling_since, score_tests
from ttl.release.watch import drift_of, drops_since
from ttl.search.around import around


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


def propose(
    layout: Layout,
    name: str,
    *,
    full: bool | None,
    own: bool,
    push: bool,
    run_id: str,
    sweep: Callable[[], Any],
) -> Proposal:
    """Sweep on the newest revision of a dataset, judge the selected model, and register it if it is proposed.

    `sweep` runs the sweep of the current folder's `params.yaml`. The evidence is left in the project's
    `evidence/<dataset>/`, and goes with the release. Raises `ReleaseError` where the rule forbids to judge.
    """
    with workplace(layout, name, own=own, push=push) as place:
        dataset = PackedDataset.open(place.datasets / name)
        rule, version = load_rule(place.root / FILE), rule_version(place.root)
        _check_rule(place, name, dataset, version)
        champion = find_champion(place, name)
        narrow(place, name, plan(place, name, rule, champion, full=full))
        sweep()
        proposal = _judged(place, name, dataset=dataset, rule=rule, version=version, champion=champion)
        folder = place.root / FOLDER / name
        if proposal.outcome == "propose":
            # All stages: from the tag alone `dvc pull` is to bring everything, the report too.
            write_report(place, place.root / "reports")
            run_dvc(place.root, "commit", "--force", "--quiet")
            told = {"Flow-Run": run_id, "Rule": version.sha256, "Evidence": evidence_sha256(folder)}
            made = registry.release(
                name,
                repo=place.root,
                push=push,
                message=message("Proposed by the gate", told),
                beside=[f"{FOLDER}/{name}/{file}" for file in (MARKDOWN, PAGE, VALUES)],
            )
            proposal = Proposal(**{**asdict(proposal), "version": made.version})
        if not own:
            _bring_back(folder, layout.root / FOLDER / name)
    return proposal


def plan(
    place: Layout, name: str, rule: GateRule, champion: Model | None, *, full: bool | None
) -> dict[str, Any]:
    """Return the settings of a retraining's sweep: around the champion, or all of it every so many times."""
    if champion is None:
        return {}
    known = read_description(champion.folder)
    if full is None:
        made = [one for one in registry.models(repo=place.root) if one.dataset == name]
        full = len(made) % rule.full_every == 0
    if full:
        return {}
    return around(known.backbone, known.strategy, known.cut, reach=rule.around)  # type: ignore[arg-type]


def find_champion(place: Layout, name: str) -> Model | None:
    """Return the champion with its files, None where there is none yet."""
    found = [
        one for one in registry.models(repo=place.root) if one.dataset == name and "champion" in one.stages
    ]
    if not found:
        return None
    folder = registry.fetch(f"{name}#champion", cache_folder("releases"), repo=place.root)
    return Model(folder=folder, version=found[0].version)


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


def _check_rule(place: Layout, name: str, dataset: PackedDataset, version: RuleVersion) -> None:
    drops = taken(dataset.root)
    if not drops:
        raise ReleaseError(f"{name} was made of no drops: there is nothing to retrain on")
    check_age(
        place.root,
        version,
        received_at=drops[-1].received_at,
        taken_in=newest_commit(place, name),
    )


def _judged(
    place: Layout,
    name: str,
    *,
    dataset: PackedDataset,
    rule: GateRule,
    version: RuleVersion,
    champion: Model | None,
) -> Proposal:
    challenger = Model(folder=place.models / name)
    if not challenger.folder.is_dir():
        raise ReleaseError(f"the sweep has selected no model of {name}: see its leaderboard")
    if champion is not None and fingerprint(champion.folder) == fingerprint(challenger.folder):
        raise ReleaseError(f"the sweep has come to the champion itself, {name}@{champion.version}")
    drift = {} if champion is None else watch(place, name, dataset, champion)
    scores = score_tests(dataset, challenger.folder, None if champion is None else champion.folder)
    verdict = judge(
        rule,
        scores,
        drifted={
            drop: rolling_since(dataset, drop)
            for drop, one in drift.items()
            if isinstance(one, DriftReport) and one.drifted
        },
        unseen=[drop for drop, one in drift.items() if isinstance(one, str)],
    )
    evidence = Evidence(
        dataset=dataset,
        verdict=verdict,
        rule=rule,
        rule_version=version,
        challenger=challenger,
        champion=champion,
        scores=scores,
        drift=drift,
        results=place.results,
    )
    return Proposal(
        dataset=name,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        revision=dataset.revision,
        evidence=write_evidence(evidence, place.root / FOLDER / name),
    )


def watch(place: Layout, name: str, dataset: PackedDataset, champion: Model) -> dict[str, DriftReport | str]:
    """Return how each drop since the champion's data compares, and why not where that cannot be told."""
    found: dict[str, DriftReport | str] = {}
    for drop in drops_since(dataset, _drops_of(place, name, champion)):
        try:
            found[drop] = drift_of(dataset, drop, champion.folder)
        except DataError as error:
            found[drop] = str(error)
    return found


def _drops_of(place: Layout, name: str, champion: Model) -> set[str]:
    """Return the digests of the drops that a champion's data were made of, as its evidence has them."""
    shown = vcs.attempt_git(place.root, "show", f"{name}@{champion.version}:{FOLDER}/{name}/{VALUES}")
    # A champion that no gate has proposed has no evidence: all drops may be new to it.
    drops = [] if shown.returncode else json.loads(shown.stdout)["data"]["drops"]
    return {one["digest"] for one in drops}


def _bring_back(made: Path, folder: Path) -> None:
    """Leave the evidence where a person looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (MARKDOWN, PAGE, VALUES):
        (folder / file).write_bytes((made / file).read_bytes())

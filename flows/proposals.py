"""Proposals: a challenger made, judged and registered."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.dvc import run_dvc
from flows.revisions import commits, taking_commit
from flows.workplace import narrow, workplace
from ttl.data.dataset import PackedDataset
from ttl.errors import ReleaseError
from ttl.intake.received import taken
from ttl.layout import Layout
from ttl.release import registry, vcs
from ttl.release.champion import Model, drops_of, find_champion
from ttl.release.decisions import NOBODY
from ttl.release.description import fingerprint, read_description
from ttl.release.evidence import Evidence, write_evidence
from ttl.release.evidence_files import FOLDER, MARKDOWN, PAGE, VALUES, evidence_sha256
from ttl.release.gate import Changed, judge
from ttl.release.gate_rule import FILE, GateRule, RuleVersion, check_age, load_rule, rule_version
from ttl.release.history import message, trailers
from ttl.release.registry import Release
from ttl.release.report import write_report
from ttl.release.testsets import rolling_since, score_tests
from ttl.release.watch import Watched, drops_since, watch
from ttl.search.around import around


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a retraining has come to: what the gate says, or `unchanged` where it found a known model again.

    `version` is empty unless it is proposed; `evidence` is Markdown, empty where nothing was judged.
    """

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
        champion = find_champion(name, repo=place.root)
        narrow(place, name, plan(place, name, rule, champion, full=full))
        sweep()
        proposal = _judged(place, name, dataset=dataset, rule=rule, version=version, champion=champion)
        folder = place.root / FOLDER / name
        if proposal.outcome == "propose":
            # All stages: from the tag alone `dvc pull` is to bring everything, the report too.
            write_report(place, place.root / "reports")
            run_dvc(place.root, "commit", "--force", "--quiet")
            told = {
                "Flow-Run": run_id,
                "Rule": version.sha256,
                "Evidence": evidence_sha256(folder),
                "Against": NOBODY if champion is None else champion.version,
            }
            made = registry.release(
                name,
                repo=place.root,
                push=push,
                message=message("Proposed by the gate", told),
                beside=[f"{FOLDER}/{name}/{file}" for file in (MARKDOWN, PAGE, VALUES)],
            )
            proposal = Proposal(**{**asdict(proposal), "version": made.version})
        if not own and proposal.evidence:
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
        full = len(commits(place.root, name)) % rule.full_every == 0
    if full:
        return {}
    return around(known.backbone, known.strategy, known.cut, reach=rule.around)  # type: ignore[arg-type]


def standing(layout: Layout, name: str, run_id: str) -> Proposal | None:
    """Return the proposal that this very run has made before, None if it has made none."""
    vcs.update_tags(layout.root, name)
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


def _check_rule(place: Layout, name: str, dataset: PackedDataset, version: RuleVersion) -> None:
    # A drop of which nothing got in brought no data to be judged.
    drops = [one for one in taken(dataset.root) if one.accepted]
    if not drops:
        raise ReleaseError(f"{name} was made of no drops: there is nothing to retrain on")
    newest = drops[-1]
    check_age(
        place.root,
        version,
        received_at=newest.received_at,
        taken_in=taking_commit(place.root, name, newest.digest),
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
    known = _registered(place, name, fingerprint(challenger.folder))
    if known is not None:
        what = "the champion" if champion is not None and known.version == champion.version else "known"
        return Proposal(
            dataset=name,
            outcome="unchanged",
            reasons=(f"the sweep has come to {known.tag} again, which is {what}: there is nothing to judge",),
            revision=dataset.revision,
            evidence="",
        )
    drift = [] if champion is None else _watched(place, name, dataset, champion)
    scores = score_tests(dataset, challenger.folder, None if champion is None else champion.folder)
    verdict = judge(
        rule,
        scores,
        changed=[
            Changed(drop=one.title, why=one.why, since=rolling_since(dataset, one.drop))
            for one in drift
            if one.changed
        ],
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


def _registered(place: Layout, name: str, model: str) -> Release | None:
    return next(
        (one for one in registry.models(repo=place.root) if (one.dataset, one.model) == (name, model)), None
    )


def _watched(place: Layout, name: str, dataset: PackedDataset, champion: Model) -> list[Watched]:
    drops = drops_since(dataset, drops_of(name, champion, repo=place.root))
    return watch(dataset, drops, champion.folder)


def _bring_back(made: Path, folder: Path) -> None:
    """Leave the evidence where a person looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (MARKDOWN, PAGE, VALUES):
        (folder / file).write_bytes((made / file).read_bytes())

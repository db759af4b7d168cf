"""The gate: whether a challenger may be proposed in the champion's place. Pure functions on scores.

Differences are challenger less champion, on the same images, with an interval by paired bootstrap over
patients. Of all that the rule names:

- **reject**: the interval says that more is lost than the rule allows, in a test set or a subgroup;
- **hold**: there are too few patients, or the assured interval does not exclude such a loss of AUROC, or a
  site's images have drifted and the rolling test set has too few of them yet;
- **propose**: no worse by more than the margin, surely, on both test sets.

What is proposed wrongly is bounded by the two margins' tests, each at (1 − confidence) / 2. To keep that with
few patients, and with networks that hardly err, they take the wider interval of `statistics.assured`: of two
equal networks it excludes a loss of 0.02 with 100 to 200 patients of each class, one of 0.04 with half as
many. A reject by chance goes against the challenger alone, so that both test sets and both metrics have the
full confidence. Subgroups are many: the intervals of those that are judged share it (Bonferroni).

Of images with several labels, metrics are means over those that are present in some of the images and absent
in others; which are not is among the reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttl.errors import ReleaseError, SearchError
from ttl.evaluation.labels import scorable
from ttl.evaluation.metrics import Labels, Probabilities
from ttl.evaluation.scoring import Threshold
from ttl.evaluation.statistics import Interval, assured, interval, metrics_at, paired
from ttl.release.gate_rule import GateRule
from ttl.search.scores import patients_by_label

Outcome = Literal["reject", "hold", "propose"]
TestName = Literal["frozen", "rolling"]
TESTS: tuple[TestName, ...] = ("frozen", "rolling")
OUTCOMES: tuple[Outcome, ...] = ("propose", "hold", "reject")
"""From the mildest to the hardest."""

ASSURED = "auroc, assured"
"""How the line is called that has the interval by which a margin is judged."""

SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "ece")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A test set, and what both models say of it.

    `labels` [n], or [n, classes] of images with several, `patients` [n], `groups` [n] by kind of subgroup,
    probabilities [n, classes] with each model's threshold; the champion's are None where there is none.
    """

    labels: Labels
    patients: NDArray[np.str_]
    groups: Mapping[str, NDArray[np.str_]]
    challenger: Probabilities
    threshold: Threshold
    champion: Probabilities | None = None
    champion_threshold: Threshold = None

    @property
    def fewest_patients(self) -> int:
        """The number of patients of the class that has the fewest.

        Of several labels that can be scored: of those who have one, or who lack one.
        """
        if self.labels.ndim == 2:
            by_label = patients_by_label(self.labels, self.patients)[:, scorable(self.labels)]
            return int(by_label.min()) if by_label.size else 0
        counts = [
            len(np.unique(self.patients[self.labels == one])) for one in range(self.challenger.shape[1])
        ]
        return min(counts)

    def where(self, mask: NDArray[np.bool_]) -> "Scores":
        """Return the images for which the mask [n] holds."""
        return Scores(
            labels=self.labels[mask],
            patients=self.patients[mask],
            groups={name: values[mask] for name, values in self.groups.items()},
            challenger=self.challenger[mask],
            threshold=self.threshold,
            champion=None if self.champion is None else self.champion[mask],
            champion_threshold=self.champion_threshold,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line of the evidence: both models' metric on a set of images, and their difference, if judged."""

    where: str
    metric: str
    images: int
    patients: int
    champion: Interval | None
    challenger: Interval | None
    difference: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate says: the outcome, the sentences that it follows from, and every comparison made."""

    outcome: Outcome
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(slots=True)
class _Case:
    """What speaks against a proposal, as it is found."""

    found: list[tuple[Outcome, str]]

    def add(self, outcome: Outcome, reason: str) -> None:
        self.found.append((outcome, reason))

    @property
    def outcome(self) -> Outcome:
        return max((outcome for outcome, _ in self.found), key=OUTCOMES.index, default="propose")


def judge(
    rule: GateRule,
    tests: Mapping[TestName, Scores],
    *,
    drifted: Mapping[str, NDArray[np.bool_]] | None = None,
    unseen: Sequence[str] = (),
) -> Verdict:
    """Judge a challenger on the test sets.

    `drifted` are drops since the champion's data whose images have drifted, each with the images of the
    rolling test set that came from its site since, as a mask [n]; `unseen` are those drops of which it could
    not be told. The frozen test set must be there; the rolling one is judged when there is a champion.
    Raises `ReleaseError` where there is nothing to judge.
    """
    if "frozen" not in tests:
        raise ReleaseError("the dataset has no frozen test set: there is nothing to judge a model on")
    case, lines = _Case([]), []
    first = tests["frozen"].champion is None
    for name, scores in tests.items():
        if (scores.champion is None) != first:
            raise ReleaseError(
                f"the champion must have scored all test sets or none; {name} and frozen differ"
            )
    for name, scores in tests.items():
        lines += compare(rule, name, scores)
    if first:
        _judge_first(rule, tests["frozen"], case, lines)
    else:
        for name in TESTS:
            _judge_test(rule, name, tests.get(name), case, lines)
        lines += _judge_subgroups(rule, tests, drifted or {}, case)
    for name, scores in tests.items():
        if scores.labels.ndim == 2 and not (can := scorable(scores.labels)).all():
            which = ", ".join(str(number) for number in np.flatnonzero(~can))
            case.add("propose", f"labels number {which} cannot be scored on the {name} test set")
    for drop in unseen:
        case.add("propose", f"whether {drop} has drifted could not be told")
    if case.outcome == "propose":
        case.add("propose", _praise(first, lines))
    return Verdict(
        outcome=case.outcome, reasons=tuple(reason for _, reason in case.found), comparisons=tuple(lines)
    )


def compare(
    rule: GateRule, where: str, scores: Scores, *, metrics: Sequence[str] = SHOWN
) -> list[Comparison]:
    """Return the comparisons of both models by each metric, as far as there are patients for intervals."""
    classes = scores.challenger.shape[1]
    ours = metrics_at(scores.threshold, classes)
    theirs = metrics_at(scores.champion_threshold, classes)
    settings: dict[str, Any] = {"confidence": rule.confidence, "resamples": rule.resamples}
    found = []
    for metric in metrics:
        if metric not in ours:
            continue
        champion = challenger = difference = None
        try:
            challenger = interval(ours[metric], scores.labels, scores.challenger, scores.patients, **settings)
            if scores.champion is not None:
                champion = interval(
                    theirs[metric], scores.labels, scores.champion, scores.patients, **settings
                )
                difference = paired(
                    partial(ours[metric], scores.labels, scores.challenger),
                    partial(theirs[metric], scores.labels, scores.champion),
                    scores.patients,
                    **settings,
                )
        except SearchError:
            # Too few patients for an interval: the line stands without, and the rule's minimum sizes say so.
            pass
        found.append(
            Comparison(
                where=where,
                metric=metric,
                images=len(scores.labels),
                patients=len(np.unique(scores.patients)),
                champion=champion,
                challenger=challenger,
                difference=difference,
            )
        )
    return found


def _judge_first(rule: GateRule, frozen: Scores, case: _Case, lines: Sequence[Comparison]) -> None:
    if frozen.fewest_patients < rule.patients.frozen:
        case.add("hold", _too_few("frozen", frozen, rule.patients.frozen))
        return
    score = _line(lines, "frozen", "auroc").challenger
    if score is None:
        case.add("hold", "AUROC on the frozen test set has no interval: there are too few patients")
    elif score.high < rule.floor:
        case.add(
            "reject", f"its AUROC on the frozen test set is {_shown(score)}, below the floor {rule.floor}"
        )
    elif score.low <= rule.floor:
        case.add(
            "hold", f"its AUROC on the frozen test set, {_shown(score)}, may be below the floor {rule.floor}"
        )


def _judge_test(
    rule: GateRule, name: TestName, scores: Scores | None, case: _Case, lines: list[Comparison]
) -> None:
    needed, margin = int(getattr(rule.patients, name)), float(getattr(rule.margin, name))
    if scores is None or scores.champion is None or scores.fewest_patients < needed:
        case.add("hold", _too_few(name, scores, needed))
        return
    surely = assured(
        scores.labels,
        scores.challenger,
        scores.champion,
        scores.patients,
        confidence=rule.confidence,
        resamples=rule.resamples,
    )
    shown = _line(lines, name, "auroc")
    lines.append(replace(shown, metric=ASSURED, champion=None, challenger=None, difference=surely))
    for metric, allowed in (("auroc", margin), ("sensitivity", rule.sensitivity)):
        line = next((one for one in lines if (one.where, one.metric) == (name, metric)), None)
        if line is None:
            continue
        difference, title = line.difference, _TITLES[metric]
        if difference is None:
            case.add("hold", f"{title} on the {name} test set has no interval: there are too few patients")
        elif difference.high < -allowed:
            case.add(
                "reject",
                f"{title} on the {name} test set is lower by {_lost(difference)}; {allowed} may be lost",
            )
        elif metric == "auroc" and surely.low <= -allowed:
            case.add(
                "hold",
                f"{title} on the {name} test set may be lower by more than {allowed}: the difference is "
                f"{_shown(difference, signed=True)}, and {surely.low:+.4f} is not excluded, given how few "
                "patients show it",
            )


def _judge_subgroups(
    rule: GateRule,
    tests: Mapping[TestName, Scores],
    drifted: Mapping[str, NDArray[np.bool_]],
    case: _Case,
) -> list[Comparison]:
    """Judge each subgroup of both test sets together, of which alone most are too small; and what drifted."""
    both = together(list(tests.values()))
    parts = {
        f"{kind} {value}": both.where(both.groups[kind] == value)
        for kind in rule.subgroups.by
        for value in np.unique(both.groups[kind])
        if value
    }
    since = set()
    for drop, mask in drifted.items():
        said = f"the images of {drop} differ from what its site had sent before (drift)"
        part = tests["rolling"].where(mask) if "rolling" in tests else None
        there = 0 if part is None else part.fewest_patients
        if part is None or there < rule.drift.patients:
            case.add(
                "hold",
                f"{said}, and since then the rolling test set has {there} patients of the rarest class from "
                f"there; the rule asks for {rule.drift.patients}",
            )
        else:
            case.add(
                "propose", f"{said}; the rolling test set has {there} patients and more from there since"
            )
            parts[f"since {drop}"] = part
            since.add(f"since {drop}")
    # How many patients there are does not hang on the scores: what is not judged takes no confidence.
    judged = {
        title
        for title, part in parts.items()
        if title in since or part.fewest_patients >= rule.subgroups.patients
    }
    share = max(1, len(judged))
    strict = GateRule(
        confidence=1 - (1 - rule.confidence) / share, resamples=max(rule.resamples, 200 * share)
    )
    lines = []
    for title, part in parts.items():
        (line,) = compare(strict, title, part, metrics=("auroc",))
        lines.append(line)
        if title not in judged or line.difference is None:
            continue
        if line.difference.high < -rule.subgroups.loss:
            case.add(
                "reject",
                f"AUROC in {title} is lower by {_lost(line.difference)}; {rule.subgroups.loss} may be lost",
            )
    return lines


def together(tests: Sequence[Scores]) -> Scores:
    """Return several test sets as one, all or none with a champion's scores."""
    first = tests[0]
    champions = [one.champion for one in tests if one.champion is not None]
    assert len(champions) in (0, len(tests))
    return Scores(
        labels=np.concatenate([one.labels for one in tests]),
        patients=np.concatenate([one.patients for one in tests]),
        groups={kind: np.concatenate([one.groups[kind] for one in tests]) for kind in first.groups},
        challenger=np.concatenate([one.challenger for one in tests]),
        threshold=first.threshold,
        champion=np.concatenate(champions) if champions else None,
        champion_threshold=first.champion_threshold,
    )


def _too_few(name: str, scores: Scores | None, needed: float) -> str:
    there = 0 if scores is None else scores.fewest_patients
    return f"the {name} test set has {there} patients of its rarest class; the rule asks for {needed:g}"


def _praise(first: bool, lines: Sequence[Comparison]) -> str:
    line = _line(lines, "frozen", "auroc")
    if first:
        return f"there is no champion yet, and its AUROC on the frozen test set is {_shown(line.challenger)}"
    rolling = _line(lines, "rolling", "auroc")
    return (
        "not inferior to the champion: AUROC differs by "
        f"{_shown(line.difference, signed=True)} on the frozen and by "
        f"{_shown(rolling.difference, signed=True)} on the rolling test set"
    )


def _line(lines: Sequence[Comparison], where: str, metric: str) -> Comparison:
    return next(one for one in lines if (one.where, one.metric) == (where, metric))


def _shown(one: Interval | None, *, signed: bool = False) -> str:
    if one is None:
        return "unknown"
    sign = "+" if signed else ""
    return f"{one.value:{sign}.4f} ({one.low:{sign}.4f} to {one.high:{sign}.4f})"


def _lost(one: Interval) -> str:
    return f"{-one.value:.4f} ({-one.high:.4f} to {-one.low:.4f})"


_TITLES = {"auroc": "AUROC", "sensitivity": "sensitivity"}

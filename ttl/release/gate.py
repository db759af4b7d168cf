"""The gate: whether a challenger may be proposed in the champion's place. Pure functions on scores.

Differences are challenger less champion, on the same images, with an interval by paired bootstrap over
patients. Of all that the rule names:

- **reject**: the interval says that more is lost than the rule allows, in a test set or a subgroup;
- **hold**: there are too few patients, or the assured interval does not exclude such a loss of AUROC, or a
  site's images have drifted, or cannot be compared with others, and the rolling test set has too few of them;
- **propose**: no worse by more than the margin, surely, on both test sets, and surely above the floor: many
  small losses in a row, each within the margin, end there.

A loss that is seen and not sure rejects nothing, and is said.

What is proposed wrongly is bounded by the two margins' tests, each at (1 − confidence) / 2. To keep that with
few patients, and with networks that hardly err, they take the wider interval of `statistics.assured`: of two
equal networks it excludes a loss of 0.02 with 100 to 200 patients of each class, one of 0.04 with half as
many. A reject by chance goes against the challenger alone, so that both test sets and both metrics have the
full confidence. Subgroups are many: the intervals of those that are judged share it (Bonferroni).

Of images with several labels, metrics are means over those that are present in some of the images and absent
in others; which are not is among the reasons.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttl.errors import ReleaseError
from ttl.evaluation.labels import scorable
from ttl.evaluation.statistics import Interval, assured
from ttl.release.gate_rule import GateRule
from ttl.release.head_to_head import TESTS, Comparison, HeadToHead, TestName, compare, together

Outcome = Literal["reject", "hold", "propose"]
OUTCOMES: tuple[Outcome, ...] = ("propose", "hold", "reject")
"""From the mildest to the hardest."""

RESAMPLES_A_SUBGROUP = 1000

ASSURED = "auroc, assured"
"""How the line is called that has the interval by which a margin is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate says: the outcome, the sentences that it follows from, and every comparison made."""

    outcome: Outcome
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A drop since the champion's data that may be of images such as the champion was never judged on.

    `why` says what is known: that they have drifted, or why that cannot be told. `since` marks the images of
    the rolling test set that came from its site with it or after it, [n].
    """

    drop: str
    why: str
    since: NDArray[np.bool_]


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
    tests: Mapping[TestName, HeadToHead],
    *,
    changed: Sequence[Changed] = (),
) -> Verdict:
    """Judge a challenger on the test sets.

    The frozen test set must be there; the rolling one is judged when there is a champion. Raises
    `ReleaseError` where there is nothing to judge.
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
    if first and tests["frozen"].fewest_patients < rule.patients.frozen:
        case.add("hold", _too_few("frozen", tests["frozen"], rule.patients.frozen))
    else:
        _judge_floor(rule, case, lines)
    if not first:
        for name in TESTS:
            _judge_test(rule, name, tests.get(name), case, lines)
        lines += _judge_subgroups(rule, tests, changed, case)
    for name, scores in tests.items():
        if scores.labels.ndim == 2 and not (can := scorable(scores.labels)).all():
            which = ", ".join(str(number) for number in np.flatnonzero(~can))
            case.add("propose", f"labels number {which} cannot be scored on the {name} test set")
    for remark in (*_unlimited(lines), *_fading(lines)):
        case.add("propose", remark)
    if case.outcome == "propose":
        case.add("propose", _praise(first, lines))
    return Verdict(
        outcome=case.outcome, reasons=tuple(reason for _, reason in case.found), comparisons=tuple(lines)
    )


def _judge_floor(rule: GateRule, case: _Case, lines: Sequence[Comparison]) -> None:
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
    rule: GateRule, name: TestName, scores: HeadToHead | None, case: _Case, lines: list[Comparison]
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
        elif metric == "sensitivity" and difference.low < -allowed:
            case.add("propose", _unproven(title, f"on the {name} test set", difference, allowed))
        elif metric == "auroc" and surely.low <= -allowed:
            case.add(
                "hold",
                f"{title} on the {name} test set may be lower by more than {allowed}: the difference is "
                f"{_shown(difference, signed=True)}, and {surely.low:+.4f} is not excluded, given how few "
                "patients show it",
            )


def _unlimited(lines: Sequence[Comparison]) -> Iterator[str]:
    """Say what the challenger has lost of what the rule sets no limit to: whoever decides has to know it."""
    for line in lines:
        if line.metric not in _UNLIMITED or line.difference is None:
            continue
        what, lost = f"{_UNLIMITED[line.metric]} on the {line.where} test set", line.difference
        if line.metric == "ece" and lost.low > 0:
            yield f"{what} is higher by {_shown(lost)}; the rule sets no limit to it"
        elif line.metric != "ece" and lost.high < 0:
            yield f"{what} is lower by {_lost(lost)}; the rule sets no limit to it"


def _fading(lines: Sequence[Comparison]) -> Iterator[str]:
    """Say where the champion itself, which is live, does worse on newer patients than on the frozen ones."""
    worse = []
    for metric, title in (_TITLES | {"specificity": "specificity"}).items():
        found = {line.where: line.champion for line in lines if line.metric == metric}
        then, now = found.get("frozen"), found.get("rolling")
        if then is not None and now is not None and now.high < then.low:
            worse.append(f"{title} {_shown(now)} on the rolling test set, {_shown(then)} on the frozen one")
    if worse:
        yield f"the champion, which is live, does worse on newer patients: {'; '.join(worse)}"


def _judge_subgroups(
    rule: GateRule,
    tests: Mapping[TestName, HeadToHead],
    changed: Sequence[Changed],
    case: _Case,
) -> list[Comparison]:
    """Judge each subgroup of both test sets together, of which alone most are too small; and what changed."""
    both = together(list(tests.values()))
    parts = {
        f"{kind} {value}": both.where(both.groups[kind] == value)
        for kind in rule.subgroups.by
        for value in np.unique(both.groups[kind])
        if value
    }
    since = set()
    for one in changed:
        said = f"{one.drop}: {one.why}"
        part = tests["rolling"].where(one.since) if "rolling" in tests else None
        there = 0 if part is None else part.fewest_patients
        if part is None or there < rule.drift.patients:
            case.add(
                "hold",
                f"{said}, and since then the rolling test set has {there} patients of the rarest class from "
                f"there; the rule asks for {rule.drift.patients}",
            )
        else:
            case.add(
                "propose",
                f"{said}; the rolling test set has {there} patients of the rarest class from there since",
            )
            parts[f"since {one.drop}"] = part
            since.add(f"since {one.drop}")
    # How many patients there are does not hang on the scores: what is not judged takes no confidence.
    judged = {
        title
        for title, part in parts.items()
        if title in since or part.fewest_patients >= rule.subgroups.patients
    }
    share = max(1, len(judged))
    strict = replace(
        rule,
        confidence=1 - (1 - rule.confidence) / share,
        # Their intervals end further out, where few resamples lie.
        resamples=max(rule.resamples, RESAMPLES_A_SUBGROUP * share),
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
        elif line.difference.value < -rule.subgroups.loss:
            # Where images have changed, nobody has seen yet that the challenger does well on them.
            case.add(
                "hold" if title in since else "propose",
                _unproven("AUROC", f"in {title}", line.difference, rule.subgroups.loss),
            )
    return lines


def _too_few(name: str, scores: HeadToHead | None, needed: float) -> str:
    there = 0 if scores is None else scores.fewest_patients
    return f"the {name} test set has {there} patients of its rarest class; the rule asks for {needed:g}"


def _unproven(title: str, where: str, difference: Interval, allowed: float) -> str:
    return (
        f"{title} {where} may be lower by more than the {allowed} that may be lost, which so few patients "
        f"neither prove nor exclude: the difference is {_shown(difference, signed=True)}"
    )


def _praise(first: bool, lines: Sequence[Comparison]) -> str:
    line = _line(lines, "frozen", "auroc")
    if first:
        return f"there is no champion yet, and its AUROC on the frozen test set is {_shown(line.challenger)}"
    parts = [
        f"{title} differs by {_shown(_line(lines, 'frozen', metric).difference, signed=True)} on the frozen "
        f"and by {_shown(_line(lines, 'rolling', metric).difference, signed=True)} on the rolling test set"
        for metric, title in _TITLES.items()
        if any(one.metric == metric for one in lines)
    ]
    return f"not inferior to the champion: {'; '.join(parts)}"


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
_UNLIMITED = {"auprc": "AUPRC", "specificity": "specificity", "ece": "calibration error (ECE)"}

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from ttl.errors import ReleaseError
from ttl.evaluation.metrics import Probabilities
from ttl.evaluation.statistics import Interval, assured, metrics_at, paired_difference
from ttl.release.gate import ASSURED, Changed, Verdict, judge
from ttl.release.gate_rule import Both, Drift, GateRule, Subgroups
from ttl.release.head_to_head import Comparison, HeadToHead, TestName, compare, together

RULE = GateRule(resamples=200)


def shift(auroc: float) -> float:
    """How far two normal distributions of unit variance lie apart for an AUROC."""
    return float(np.sqrt(2) * norm.ppf(auroc))


def binary(scores: NDArray[np.float64]) -> Probabilities:
    """Scores as probabilities; 0 is where a threshold of 0.5 lies."""
    second = norm.cdf(scores)
    return np.stack([1 - second, second], axis=1)


def drifted(since: NDArray[np.bool_]) -> Changed:
    return Changed(drop="north/2", why="its images differ (drift)", since=since)


def draw(
    rng: np.random.Generator,
    patients: int,
    *,
    champion: float | None = 0.9,
    challenger: float = 0.9,
    shared: float = 0.9,
    films: int = 1,
    name: str = "p",
    **groups: str,
) -> HeadToHead:
    """So many patients of each class, each with so many images, and models of these AUROCs.

    `shared` is the share of variance that both models' scores have in common.
    """
    labels = np.repeat([0, 1], patients * films)
    common = np.sqrt(shared) * rng.normal(size=len(labels))

    def scores(auroc: float) -> Probabilities:
        own = np.sqrt(1 - shared) * rng.normal(size=len(labels))
        return binary(common + own + shift(auroc) * (labels - 0.5))

    return HeadToHead(
        labels=labels,
        patients=np.repeat([f"{name}{number}" for number in range(2 * patients)], films),
        groups={kind: np.full(len(labels), groups.get(kind, "")) for kind in ("site", "year")},
        challenger=scores(challenger),
        threshold=0.5,
        champion=None if champion is None else scores(champion),
        champion_threshold=None if champion is None else 0.5,
    )


def exact(
    ours: list[float], theirs: list[float] | None, labels: list[int], patients: list[str] | None = None
) -> HeadToHead:
    return HeadToHead(
        labels=np.array(labels),
        patients=np.array(patients or [f"p{number}" for number in range(len(labels))]),
        groups={kind: np.full(len(labels), "") for kind in ("site", "year")},
        challenger=binary(np.array(ours)),
        threshold=0.5,
        champion=None if theirs is None else binary(np.array(theirs)),
        champion_threshold=None if theirs is None else 0.5,
    )


def pair(seed: int = 0, patients: int = 150, **changes: object) -> dict[TestName, HeadToHead]:
    """Two test sets; changes of the rolling one are given as `rolling`."""
    rng = np.random.default_rng(seed)
    rolling: Mapping = changes.pop("rolling", {})  # type: ignore[assignment]
    there = {"patients": patients, "name": "r", **changes, **rolling}
    return {
        "frozen": draw(rng, patients, name="f", **changes),  # type: ignore[arg-type]
        "rolling": draw(rng, **there),
    }


def line(verdict: Verdict, where: str, metric: str = "auroc") -> Comparison:
    (found,) = [one for one in verdict.comparisons if (one.where, one.metric) == (where, metric)]
    return found


def test_a_first_model_is_judged_by_the_floor() -> None:
    def first(auroc: float, patients: int = 200) -> Verdict:
        rng = np.random.default_rng(1)
        return judge(RULE, {"frozen": draw(rng, patients, champion=None, challenger=auroc)})

    good, low, near = first(0.95), first(0.7), first(0.81)
    assert good.outcome == "propose"
    assert good.reasons[0].startswith("there is no champion yet, and its AUROC on the frozen test set is 0.9")
    assert low.outcome == "reject"
    assert "below the floor 0.8" in low.reasons[0]
    assert near.outcome == "hold"
    score = line(near, "frozen").challenger
    assert score is not None
    assert score.low <= 0.8 <= score.high
    few = first(0.99, patients=9)
    assert few.outcome == "hold"
    assert few.reasons == ("the frozen test set has 9 patients of its rarest class; the rule asks for 10",)


def test_a_loss_that_the_rule_sets_no_limit_to_is_said_to_whoever_decides() -> None:
    """The same order of images, and a lower threshold: more findings, and more false alarms."""
    sets = pair(patients=600)
    louder = {}
    for name, one in sets.items():
        assert one.champion is not None
        louder[name] = dataclasses.replace(one, challenger=binary(norm.ppf(one.champion[:, 1]) + 1))
    verdict = judge(RULE, louder)
    assert verdict.outcome == "propose"
    for where in ("frozen", "rolling"):
        found = line(verdict, where, "specificity").difference
        assert found is not None
        assert found.high < 0
        said = f"specificity on the {where} test set is lower by {-found.value:.4f} ("
        assert [one for one in verdict.reasons if one.startswith(said) and "sets no limit to it" in one]
    assert not [one for one in judge(RULE, sets).reasons if "no limit" in one]


def test_a_champion_that_does_worse_on_newer_patients_is_named_whatever_becomes_of_the_challenger() -> None:
    words = "the champion, which is live, does worse on newer patients: AUROC 0."
    for challenger in (0.9, 0.5):
        fading = judge(RULE, pair(rolling={"champion": 0.7, "challenger": challenger}))
        assert [one for one in fading.reasons if one.startswith(words)]
    assert not [one for one in judge(RULE, pair()).reasons if "live" in one]


def test_a_first_model_needs_no_rolling_patients_and_shows_them() -> None:
    sets = pair(champion=None, challenger=0.95, patients=60, site="north")
    verdict = judge(RULE, sets)
    assert verdict.outcome == "propose"
    assert {one.where for one in verdict.comparisons} == {"frozen", "rolling"}
    assert line(verdict, "rolling").champion is None
    assert line(verdict, "rolling").difference is None


def test_a_first_model_without_an_interval_is_held_and_not_rejected() -> None:
    """Two patients of one class among a hundred: many resamples lack the class."""
    rule = dataclasses.replace(RULE, patients=Both(frozen=2, rolling=2))
    rng = np.random.default_rng(0)
    labels = [0] * 8 + [1, 2, 3, 4, 5, 6, 7] * 2
    probabilities = rng.dirichlet(np.ones(8), size=len(labels))
    scores = HeadToHead(
        labels=np.array(labels),
        patients=np.array([f"p{number}" for number in range(len(labels))]),
        groups={kind: np.full(len(labels), "") for kind in ("site", "year")},
        challenger=probabilities,
        threshold=None,
    )
    verdict = judge(rule, {"frozen": scores})
    assert line(verdict, "frozen").challenger is None
    assert verdict.outcome == "hold"
    assert "no interval" in verdict.reasons[0]


def test_an_equal_challenger_is_proposed_and_the_figures_are_the_plain_ones() -> None:
    sets = pair(champion=0.95, challenger=0.95, shared=0.95, patients=300)
    verdict = judge(RULE, sets)
    assert verdict.outcome == "propose"
    assert verdict.reasons[-1].startswith("not inferior to the champion: AUROC differs by ")
    frozen = sets["frozen"]
    assert frozen.champion is not None
    assert line(verdict, "frozen").difference == paired_difference(
        frozen.labels, frozen.challenger[None], frozen.champion[None], frozen.patients, resamples=200
    )
    assert line(verdict, "frozen").images == 600
    assert line(verdict, "rolling").patients == 600
    assert verdict.to_dict()["comparisons"][0]["where"] == "frozen"


@pytest.mark.parametrize("worse", ["frozen", "rolling"])
def test_a_challenger_that_is_surely_worse_on_either_set_is_rejected(worse: str) -> None:
    rng = np.random.default_rng(2)
    sets: dict[TestName, HeadToHead] = {
        name: draw(rng, 300, name=name, champion=0.95, challenger=0.8 if name == worse else 0.95, shared=0.95)
        for name in ("frozen", "rolling")
    }
    verdict = judge(RULE, sets)
    assert verdict.outcome == "reject"
    (reason,) = [one for one in verdict.reasons if one.startswith("AUROC")]
    assert reason.startswith(f"AUROC on the {worse} test set is lower by 0.1")


@pytest.mark.parametrize("worse", ["frozen", "rolling"])
def test_a_challenger_that_may_be_worse_is_held(worse: str) -> None:
    """So few patients that the interval holds both no loss and more than the margin."""
    rng = np.random.default_rng(3)
    sets: dict[TestName, HeadToHead] = {
        name: draw(rng, 25 if name == worse else 400, name=name, shared=0.5 if name == worse else 0.97)
        for name in ("frozen", "rolling")
    }
    verdict = judge(RULE, sets)
    assert verdict.outcome == "hold"
    assert [one for one in verdict.reasons if f"AUROC on the {worse} test set may be lower by more" in one]
    other = "rolling" if worse == "frozen" else "frozen"
    limited = [one for one in verdict.reasons if "the rule sets no limit to it" not in one]
    assert not [one for one in limited if other in one]


def test_each_set_has_its_own_margin() -> None:
    sets = pair(champion=0.95, challenger=0.922, shared=0.99, patients=300)
    wide = dataclasses.replace(RULE, margin=Both(frozen=0.06, rolling=0.06), sensitivity=0.2)
    assert judge(wide, sets).outcome == "propose"
    for margin, where in (
        (Both(frozen=0.001, rolling=0.06), "frozen"),
        (Both(frozen=0.06, rolling=0.001), "rolling"),
    ):
        verdict = judge(dataclasses.replace(wide, margin=margin), sets)
        assert verdict.outcome == "reject"
        assert f"AUROC on the {where} test set" in verdict.reasons[0]
        assert "0.001 may be lost" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rolling": {"patients": 9}}, "the rolling test set has 9 patients of its rarest class"),
        ({"patients": 9, "rolling": {"patients": 150}}, "the frozen test set has 9 patients of its rarest"),
    ],
)
def test_too_few_patients_hold(change: dict, reason: str) -> None:
    verdict = judge(RULE, pair(**{"shared": 0.999, **change}))
    assert verdict.outcome == "hold"
    assert [one for one in verdict.reasons if one.startswith(reason)]


def test_patients_count_and_not_their_images() -> None:
    verdict = judge(RULE, pair(shared=0.999, rolling={"patients": 9, "films": 40}))
    assert verdict.outcome == "hold"
    assert "the rolling test set has 9 patients" in verdict.reasons[0]
    one_class = exact([1.0] * 30, [1.0] * 30, [1] * 30)
    assert one_class.fewest_patients == 0


def test_without_a_rolling_set_there_is_no_proposal() -> None:
    sets = pair(shared=0.999)
    del sets["rolling"]
    verdict = judge(RULE, sets)
    assert verdict.outcome == "hold"
    assert verdict.reasons == (
        "the rolling test set has 0 patients of its rarest class; the rule asks for 10",
    )


def test_without_a_frozen_set_there_is_nothing_to_judge() -> None:
    sets = pair(patients=20)
    del sets["frozen"]
    with pytest.raises(ReleaseError, match="no frozen test set"):
        judge(RULE, sets)


def test_a_champion_that_has_scored_one_set_alone_is_an_error() -> None:
    sets = pair(patients=20)
    for name in sets:
        half = {**sets, name: dataclasses.replace(sets[name], champion=None, champion_threshold=None)}
        with pytest.raises(ReleaseError, match="all test sets or none; rolling and frozen differ"):
            judge(RULE, half)


def test_findings_missed_at_the_threshold_reject_though_the_order_is_the_same() -> None:
    sets = pair(champion=0.95, challenger=0.95, shared=1.0)
    verdict = judge(RULE, sets)
    assert verdict.outcome == "propose"
    strict = {name: dataclasses.replace(one, threshold=0.9) for name, one in sets.items()}
    verdict = judge(RULE, strict)
    difference = line(verdict, "frozen").difference
    assert difference is not None
    assert difference.value == pytest.approx(0, abs=1e-12)
    assert verdict.outcome == "reject"
    assert [one for one in verdict.reasons if one.startswith("sensitivity on the frozen test set is lower")]
    sensitivity = line(verdict, "frozen", "sensitivity").difference
    assert sensitivity is not None
    found = strict["frozen"].challenger[strict["frozen"].labels == 1, 1]
    assert sensitivity.value == pytest.approx((found >= 0.9).mean() - (found >= 0.5).mean())


def test_sensitivity_that_may_be_lower_holds_nothing() -> None:
    sets = {name: dataclasses.replace(one, threshold=0.52) for name, one in pair(shared=1.0).items()}
    rule = dataclasses.replace(RULE, sensitivity=0.02)
    verdict = judge(rule, sets)
    difference = line(verdict, "frozen", "sensitivity").difference
    assert difference is not None
    assert difference.low < -0.02 < difference.high
    assert verdict.outcome == "propose"


def test_many_classes_are_judged_by_auroc_alone() -> None:
    rng = np.random.default_rng(5)
    sets: dict[TestName, HeadToHead] = {}
    for name in ("frozen", "rolling"):
        labels = np.tile(np.arange(3), 100)
        logits = rng.normal(size=(300, 3)) + 3 * np.eye(3)[labels]
        whole = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        sets[name] = HeadToHead(
            labels=labels,
            patients=np.array([f"{name}{number}" for number in range(300)]),
            groups={kind: np.full(300, "") for kind in ("site", "year")},
            challenger=whole,
            threshold=None,
            champion=whole,
            champion_threshold=None,
        )
    verdict = judge(RULE, sets)
    assert verdict.outcome == "propose"
    assert {one.metric for one in verdict.comparisons} == {
        "auroc",
        ASSURED,
        "auprc",
        "balanced_accuracy",
        "ece",
    }


def test_a_subgroup_that_is_surely_worse_rejects_what_is_no_worse_on_the_whole() -> None:
    rng = np.random.default_rng(6)
    good = [
        draw(rng, 450, champion=0.95, challenger=0.955, shared=0.95, name=f"a{n}", site="north")
        for n in (0, 1)
    ]
    bad = [
        draw(rng, 30, champion=0.95, challenger=0.7, shared=0.95, name=f"b{n}", site="south") for n in (0, 1)
    ]
    sets: dict[TestName, HeadToHead] = {
        "frozen": together([good[0], bad[0]]),
        "rolling": together([good[1], bad[1]]),
    }
    rule = dataclasses.replace(RULE, margin=Both(frozen=0.05, rolling=0.05), sensitivity=0.2)
    verdict = judge(rule, sets)
    assert verdict.outcome == "reject"
    (reason,) = verdict.reasons
    assert reason.startswith("AUROC in site south is lower by 0.2")
    assert reason.endswith("0.05 may be lost")
    assert line(verdict, "site south").patients == 120
    assert line(verdict, "site north").difference is not None
    # The same site, too small to judge: it is shown.
    small = dataclasses.replace(rule, subgroups=Subgroups(patients=61))
    shown = judge(small, sets)
    assert shown.outcome == "propose"
    assert line(shown, "site south").difference is not None
    assert judge(dataclasses.replace(rule, subgroups=Subgroups(by=("year",))), sets).outcome == "propose"


def test_subgroups_share_the_confidence_among_those_that_are_judged() -> None:
    """A hundred sites of a few patients do not make the interval of a large one wider."""
    rng = np.random.default_rng(7)
    large = {name: draw(rng, 100, name=name, site="north", shared=0.95) for name in ("frozen", "rolling")}
    alone = judge(RULE, large)  # type: ignore[arg-type]
    crumbs = [draw(rng, 1, name=f"c{n}-", site=f"crumb {n}", shared=0.95) for n in range(12)]
    many = judge(RULE, {"frozen": together([large["frozen"], *crumbs]), "rolling": large["rolling"]})
    assert line(many, "site north").difference == line(alone, "site north").difference
    assert len([one for one in many.comparisons if one.where.startswith("site crumb")]) == 12
    two = judge(
        RULE,
        {
            "frozen": together([large["frozen"], draw(rng, 100, name="s", site="south", shared=0.95)]),
            "rolling": large["rolling"],
        },
    )
    wide, narrow = line(two, "site north").difference, line(alone, "site north").difference
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 1.05 * (narrow.high - narrow.low)


def test_a_site_of_one_class_is_shown_without_figures() -> None:
    rng = np.random.default_rng(8)
    sets = pair(shared=0.99)
    sick = draw(rng, 20, name="s", site="hospice", shared=0.99)
    sets["rolling"] = together([sets["rolling"], sick.where(sick.labels == 1)])
    verdict = judge(RULE, sets)
    assert verdict.outcome == "propose"
    shown = line(verdict, "site hospice")
    assert (shown.images, shown.champion, shown.challenger, shown.difference) == (20, None, None, None)


def test_a_drifted_drop_holds_until_its_new_images_are_in_the_rolling_set() -> None:
    rng = np.random.default_rng(9)
    sets = pair(shared=0.99)
    since = draw(rng, 12, shared=0.99, name="n", site="north")
    sets["rolling"] = together([sets["rolling"], since])
    mask = np.arange(len(sets["rolling"].labels)) >= len(sets["rolling"].labels) - 24
    few = mask & (np.cumsum(mask) > 5)
    verdict = judge(RULE, sets, changed=[drifted(few)])
    assert verdict.outcome == "hold"
    (reason,) = [one for one in verdict.reasons if "drift" in one]
    assert reason.startswith("north/2: its images differ (drift), and since then")
    assert "has 7 patients of the rarest class from there; the rule asks for 10" in reason
    enough = judge(RULE, sets, changed=[drifted(mask)])
    assert enough.outcome == "propose"
    assert "has 12 patients of the rarest class from there since" in enough.reasons[0]
    assert line(enough, "since north/2").images == 24


def test_a_drifted_site_on_which_the_challenger_is_surely_worse_rejects() -> None:
    rng = np.random.default_rng(10)
    sets = pair(shared=0.99, patients=300)
    since = draw(rng, 40, shared=0.95, champion=0.95, challenger=0.6, name="n")
    sets["rolling"] = together([sets["rolling"], since])
    mask = np.arange(len(sets["rolling"].labels)) >= 600
    rule = dataclasses.replace(RULE, margin=Both(frozen=0.05, rolling=0.1), sensitivity=0.3)
    verdict = judge(rule, sets, changed=[drifted(mask)])
    assert verdict.outcome == "reject"
    assert [one for one in verdict.reasons if one.startswith("AUROC in since north/2 is lower by 0.")]
    # What is enough for drift is judged, whatever other subgroups take.
    apart = dataclasses.replace(rule, subgroups=Subgroups(patients=1000), drift=Drift(patients=20))
    assert judge(apart, sets, changed=[drifted(mask)]).outcome == "reject"


def test_drift_without_a_rolling_set_holds() -> None:
    sets = pair(shared=0.99)
    mask = np.ones(len(sets["rolling"].labels), dtype=bool)
    del sets["rolling"]
    verdict = judge(RULE, sets, changed=[drifted(mask)])
    assert verdict.outcome == "hold"
    assert [one for one in verdict.reasons if "has 0 patients of the rarest class from there" in one]


def test_what_could_not_be_told_of_a_new_site_is_treated_as_drift() -> None:
    """A hospital that has sent nothing before: nobody has seen what the models make of its images."""
    rng = np.random.default_rng(14)
    sets = pair(shared=0.99, patients=300)
    worse = draw(rng, 12, shared=0.6, champion=0.9, challenger=0.7, name="b", site="b")
    sets["rolling"] = together([sets["rolling"], worse])
    mask = np.arange(len(sets["rolling"].labels)) >= 600
    few = mask & (np.cumsum(mask) > 15)
    untold = "whether its images have drifted cannot be told: b has sent nothing before"
    verdict = judge(RULE, sets, changed=[Changed(drop="b/1", why=untold, since=few)])
    assert verdict.outcome == "hold"
    assert [one for one in verdict.reasons if one.startswith(f"b/1: {untold}, and since then")]
    seen = judge(RULE, sets, changed=[Changed(drop="b/1", why=untold, since=mask)])
    lost = line(seen, "since b/1").difference
    assert lost is not None
    assert lost.value < -0.05 < lost.high
    assert seen.outcome == "hold"
    assert [one for one in seen.reasons if one.startswith("AUROC in since b/1 may be lower by more than")]


def test_the_floor_holds_for_every_model() -> None:
    """Each may lose within the margin; all of them together may not."""
    sets = pair(champion=0.9, challenger=0.9, shared=0.999, patients=300)
    assert judge(dataclasses.replace(RULE, floor=0.8), sets).outcome == "propose"
    held = judge(dataclasses.replace(RULE, floor=0.9), sets)
    assert held.outcome == "hold"
    assert [one for one in held.reasons if "may be below the floor 0.9" in one]
    refused = judge(dataclasses.replace(RULE, floor=0.97), sets)
    assert refused.outcome == "reject"
    assert [one for one in refused.reasons if "below the floor 0.97" in one]


def test_a_loss_that_is_seen_and_not_proven_is_said() -> None:
    sets = pair(shared=0.99, patients=300)
    rng = np.random.default_rng(13)
    small = draw(rng, 12, shared=0.6, champion=0.9, challenger=0.75, name="s", site="hospice")
    sets["rolling"] = together([sets["rolling"], small])
    verdict = judge(RULE, sets)
    lost = line(verdict, "site hospice").difference
    assert lost is not None
    assert lost.value < -0.05 < lost.high
    assert [one for one in verdict.reasons if one.startswith("AUROC in site hospice may be lower by more")]
    strict = judge(dataclasses.replace(RULE, sensitivity=0.0), sets)
    said = [one for one in strict.reasons if one.startswith("sensitivity on the ")]
    assert said
    assert "neither prove nor exclude" in said[0]
    assert "sensitivity differs by" in verdict.reasons[-1]


def test_the_hardest_reason_decides() -> None:
    sets = pair(champion=0.95, challenger=0.7, rolling={"patients": 5})
    verdict = judge(RULE, sets, changed=[drifted(np.zeros(len(sets["rolling"].labels), dtype=bool))])
    assert verdict.outcome == "reject"
    assert len(verdict.reasons) >= 3
    assert not [one for one in verdict.reasons if one.startswith("not inferior")]


def test_patients_are_resampled_and_not_images() -> None:
    """Ten copies of every image say nothing new; as patients of their own they would."""
    rng = np.random.default_rng(11)
    once = draw(rng, 40, shared=0.5)
    many = HeadToHead(
        labels=np.repeat(once.labels, 10),
        patients=np.repeat(once.patients, 10),
        groups={kind: np.repeat(values, 10) for kind, values in once.groups.items()},
        challenger=np.repeat(once.challenger, 10, axis=0),
        threshold=0.5,
        champion=np.repeat(once.champion, 10, axis=0),  # type: ignore[arg-type]
        champion_threshold=0.5,
    )
    apart = dataclasses.replace(many, patients=np.array([f"p{n}" for n in range(len(many.labels))]))

    def difference(scores: HeadToHead) -> Interval:
        (found,) = compare(RULE, "here", scores, metrics=("auroc",))
        assert found.difference is not None
        return found.difference

    assert difference(many).low == pytest.approx(difference(once).low, abs=1e-12)
    assert difference(many).high == pytest.approx(difference(once).high, abs=1e-12)
    assert difference(apart).high - difference(apart).low < 0.5 * (
        difference(many).high - difference(many).low
    )


def test_each_model_decides_at_its_own_threshold() -> None:
    scores = draw(np.random.default_rng(12), 50)
    scores = dataclasses.replace(scores, threshold=0.3, champion_threshold=0.8)
    (found,) = compare(RULE, "here", scores, metrics=("specificity",))
    ones = np.ones((1, 100))
    assert scores.champion is not None
    ours = metrics_at(0.3, 2)["specificity"](scores.labels, scores.challenger, ones)[0]
    theirs = metrics_at(0.8, 2)["specificity"](scores.labels, scores.champion, ones)[0]
    assert found.challenger is not None
    assert found.champion is not None
    assert found.difference is not None
    assert (found.challenger.value, found.champion.value) == (ours, theirs)
    assert found.difference.value == pytest.approx(ours - theirs)
    assert ours < theirs


def test_sets_are_joined_image_by_image() -> None:
    rng = np.random.default_rng(13)
    parts = [draw(rng, 3, name="a", site="north"), draw(rng, 2, name="b", site="south")]
    both = together(parts)
    assert both.champion is not None
    assert len(both.labels) == len(both.champion) == 10
    assert both.groups["site"].tolist() == ["north"] * 6 + ["south"] * 4
    south = both.where(both.groups["site"] == "south")
    assert np.array_equal(south.challenger, parts[1].challenger)
    assert south.champion is not None
    assert parts[1].champion is not None
    assert np.array_equal(south.champion, parts[1].champion)


def proposals(rule: GateRule, repeats: int, make: Callable[[np.random.Generator], dict]) -> float:
    rng = np.random.default_rng(2026)
    return float(np.mean([judge(rule, make(rng)).outcome == "propose" for _ in range(repeats)]))


def test_a_challenger_worse_by_just_the_margin_is_seldom_proposed() -> None:
    """Each set's test errs in 2.5 % of cases; where both sets lose just their margin, fewer are proposed.

    Here the rolling set is the easy one, so that the frozen one's test is measured alone.
    """
    rule = GateRule(
        resamples=200,
        margin=Both(frozen=0.02, rolling=0.3),
        sensitivity=0.4,
        subgroups=Subgroups(by=(), loss=0.4),
    )

    def at_the_margin(rng: np.random.Generator) -> dict[TestName, HeadToHead]:
        return {
            "frozen": draw(rng, 60, champion=0.9, challenger=0.88, shared=0.8, name="f"),
            "rolling": draw(rng, 15, champion=0.9, challenger=0.9, shared=0.95, name="r"),
        }

    def better(rng: np.random.Generator) -> dict[TestName, HeadToHead]:
        return {
            "frozen": draw(rng, 60, champion=0.9, challenger=0.94, shared=0.8, name="f"),
            "rolling": draw(rng, 15, champion=0.9, challenger=0.94, shared=0.95, name="r"),
        }

    assert proposals(rule, 150, at_the_margin) <= 0.05
    assert proposals(rule, 20, better) >= 0.5


def test_flawless_models_on_few_patients_prove_nothing() -> None:
    """Two networks that err in none of ten patients: each resample is like the next, and no loss is seen."""
    scores = exact([3.0, -3.0] * 10, [3.0, -3.0] * 10, [1, 0] * 10)
    verdict = judge(RULE, {"frozen": scores, "rolling": scores})
    plain, surely = line(verdict, "frozen").difference, line(verdict, "frozen", ASSURED).difference
    assert plain is not None
    assert surely is not None
    assert (plain.value, plain.low, plain.high) == (surely.value, 0, 0) == (0, 0, 0)
    assert surely.low < -0.04
    assert verdict.outcome == "hold"
    assert f"and {surely.low:+.4f} is not excluded" in verdict.reasons[0]


@pytest.mark.parametrize("patients", [10, 20])
def test_the_assured_interval_keeps_its_level_where_the_plain_one_does_not(patients: int) -> None:
    rng, margin, times = np.random.default_rng(1), 0.02, 150
    found = {"plain": 0, "assured": 0}
    for _ in range(times):
        one = draw(rng, patients, champion=0.999, challenger=0.999 - margin, shared=0.7)
        assert one.champion is not None
        plain = paired_difference(
            one.labels, one.challenger[None], one.champion[None], one.patients, resamples=200
        )
        wide = assured(one.labels, one.challenger, one.champion, one.patients, resamples=200)
        assert wide.value == pytest.approx(plain.value, abs=1e-12)
        found["plain"] += plain.low > -margin
        found["assured"] += wide.low > -margin
    assert found["plain"] / times > 0.1
    assert found["assured"] / times <= 0.05


def test_with_many_patients_the_assured_interval_is_the_plain_one() -> None:
    one = draw(np.random.default_rng(0), 1000, champion=0.9, challenger=0.88, films=2)
    assert one.champion is not None
    plain = paired_difference(
        one.labels, one.challenger[None], one.champion[None], one.patients, resamples=400
    )
    wide = assured(one.labels, one.challenger, one.champion, one.patients, resamples=400)
    assert (wide.low, wide.high) == pytest.approx((plain.low, plain.high), abs=0.003)


def test_with_many_patients_equal_models_are_proposed() -> None:
    verdict = judge(RULE, pair(champion=0.97, challenger=0.97, patients=300))
    assert verdict.outcome == "propose"


def test_the_assured_interval_treats_both_models_alike_whatever_the_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    one, other = (rng.dirichlet(np.ones(3), size=60) + 0.5 * np.eye(3)[labels] for _ in range(2))
    patients = np.arange(60)
    forth, back = assured(labels, one, other, patients), assured(labels, other, one, patients)
    assert forth.value == pytest.approx(-back.value)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=0.02)

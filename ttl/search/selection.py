"""The choice of a model: the smallest whose validation AUROC is not inferior to the best whole network's."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.errors import SearchError
from ttl.evaluation.labels import choose_thresholds
from ttl.evaluation.scoring import Threshold
from ttl.evaluation.statistics import Interval, auroc, interval, metrics_at, paired_difference
from ttl.search.label_figures import judged_entry, label_figures, label_notes
from ttl.search.results import ABLATIONS, MODEL, ordinary
from ttl.search.rule import SelectionRule
from ttl.search.scores import Predictions, Scores, judged_in_test, judged_labels, read_scores
from ttl.training.runs import COMPLETED, FAILED, STOPPED

GROUP = [*MODEL, "source_sha256"]
SHOWN = ["backbone", "source", "strategy", "cut", "recipe", "image_size", "processes", *ABLATIONS]

CONDITION = ("recipe", "head")
"""What a reference and those compared with it have in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model with all its seeds. `val_auroc` and `test_auroc` are means over them."""

    values: Mapping[str, Any]
    params: int
    macs: int
    model_bytes: int
    latency_ms: float
    seeds: tuple[int, ...]
    trial_ids: tuple[str, ...]
    best: int

    @property
    def name(self) -> str:
        """The model in a few words: `efficientnet_lite0 ttl blocks.3`."""
        return f"{self.values['backbone']} {self.values['strategy']} {self.values['cut']}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `selection.json` has them."""
        costs = {name: getattr(self, name) for name in ("params", "macs", "model_bytes", "latency_ms")}
        return {
            **{name: self.values[name] for name in SHOWN},
            **costs,
            "seeds": list(self.seeds),
            "trial_ids": list(self.trial_ids),
        }


def select(
    trials: pl.DataFrame,
    predictions: Predictions,
    rule: SelectionRule,
    classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the selection of one dataset, as its entry of `selection.json` without `data`.

    Only `ordinary` trials are looked at, and like is compared with like: by one recipe, with one head, those
    of the best whole network. `classes` are for the notes. Where images have several labels, models are
    compared by their mean AUROC over those that enough patients have and lack, by the rule, in the validation
    split: `labels` says which, in validation and in test. Choices are made on validation predictions. The
    test split is scored for the chosen model and the reference alone. Raises `SearchError` if no ftl trial
    was completed.
    """
    trials = ordinary(trials)
    candidates, notes, given_up = _candidates(trials)
    wholes = [one for one in candidates if one.values["strategy"] == "ftl"]
    if not wholes:
        asked = trials.filter(pl.col("strategy") == "ftl")
        lost = asked.filter(pl.col("status") != COMPLETED).height
        raise SearchError(
            f"{lost} of the {asked.height} trials of the whole network (ftl) were not completed, so there is "
            "no reference with all its seeds"
            if asked.height
            else "the sweep has no trial of the whole network to compare with; add the strategy ftl"
        )
    settings = _settings(rule)
    whole_val = {one.trial_ids: read_scores(one.trial_ids, predictions, "val") for one in candidates}
    truth = whole_val[wholes[0].trial_ids]
    judged = judged_labels(truth.labels, truth.patients, rule.patients)
    val = {ids: one.of(judged) for ids, one in whole_val.items()}
    means = {one.trial_ids: _mean_auroc(val[one.trial_ids]) for one in candidates}
    reference = max(wholes, key=lambda one: (means[one.trial_ids], -one.params))
    alike = [
        one for one in candidates if all(one.values[name] == reference.values[name] for name in CONDITION)
    ]
    if len(alike) < len(candidates):
        said = f"recipe {reference.values['recipe']}, {reference.values['head']} head"
        notes.append(
            f"{len(candidates) - len(alike)} models were trained by another recipe or with another head than "
            f"the best whole network ({said}), and are not compared with it"
        )
    compared = [one for one in alike if set(one.seeds) == set(reference.seeds)]
    given_up += len(alike) - len(compared)
    if given_up:
        notes.append(
            f"{given_up} models were not trained to the end with every seed: the planner gave them up, "
            "and the ledger says why"
        )
    rows, chosen = [], reference
    fewest = val[reference.trial_ids].fewest_patients
    enough = fewest >= rule.patients
    if not enough:
        notes.append(
            f"A class has only {fewest} patients in the validation split, and the rule wants "
            f"{rule.patients}: no interval says enough, and the whole network stays"
        )
    for one in sorted(compared, key=lambda one: (one.params, one.macs, one.name)):
        difference = (
            Interval(value=0.0, low=0.0, high=0.0)
            if one is reference
            else _difference(val[one.trial_ids], val[reference.trial_ids], rule)
        )
        non_inferior = one is reference or (enough and difference.low > -rule.margin)
        if non_inferior and one.params < chosen.params:
            chosen = one
        rows.append(
            {
                **one.to_dict(),
                "val_auroc": _auroc_interval(val[one.trial_ids], settings),
                "difference": dataclasses.asdict(difference),
                "non_inferior": non_inferior,
            }
        )
        if one is chosen and one is not reference and difference.low == difference.high:
            notes.append(
                f"The interval of {one.name} has no width: validation is saturated, and cannot tell it "
                "from the reference; more, or harder, validation images would"
            )
    pair = {"chosen": chosen, "reference": reference}
    whole_test = {role: read_scores(one.trial_ids, predictions, "test") for role, one in pair.items()}
    judged_test = judged_in_test(whole_test["reference"], judged, rule.patients)
    test = {role: one.of(judged_test) for role, one in whole_test.items()}
    notes += label_notes(judged, judged_test, classes, rule.patients)
    summary = {
        role: {
            **one.to_dict(),
            "val_auroc": _auroc_interval(val[one.trial_ids], settings),
            "test_auroc": _auroc_interval(test[role], settings),
        }
        for role, one in pair.items()
    }
    thresholds = dict(trials.select("trial_id", "threshold").iter_rows())
    figures = {}
    for role, one in pair.items():
        scores = {"validation": whole_val[one.trial_ids], "test": whole_test[role]}
        kept = {"validation": judged, "test": judged_test}
        figures[role] = _figures(one, thresholds, scores, kept, settings)
    return {
        "rule": dataclasses.asdict(rule),
        **summary,
        "candidates": rows,
        "figures": figures,
        "test_difference": dataclasses.asdict(_difference(test["chosen"], test["reference"], rule)),
        "notes": notes,
        **judged_entry(judged, judged_test),
    }


def compare(
    trial_ids: Sequence[str], reference_ids: Sequence[str], predictions: Predictions, rule: SelectionRule
) -> Interval:
    """Return the interval of the difference in validation AUROC between two models, by their trials."""
    candidate, reference = (read_scores(ids, predictions, "val") for ids in (trial_ids, reference_ids))
    judged = judged_labels(reference.labels, reference.patients, rule.patients)
    candidate, reference = candidate.of(judged), reference.of(judged)
    return _difference(candidate, reference, rule)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) that no point of at most their cost equals or beats."""
    front, best = [], -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def _candidates(trials: pl.DataFrame) -> tuple[list[Candidate], list[str], int]:
    """Return the models all of whose trials were completed, a note on each that failed, how many stopped."""
    found, notes, stopped = [], [], 0
    for _, group in trials.sort("seed").group_by(GROUP, maintain_order=True):
        failed = group.filter(pl.col("status") == FAILED).height
        first = group.row(0, named=True)
        if failed:
            notes.append(
                f"{first['backbone']} {first['strategy']} {first['cut']} was left out: "
                f"{failed} of its {group.height} trials failed"
            )
            continue
        if (group["status"] == STOPPED).any():
            stopped += 1
            continue
        aurocs, losses = group["val_auroc"].to_list(), group["val_loss"].to_list()
        best = max(range(group.height), key=lambda i: (aurocs[i], -losses[i], -i))
        found.append(
            Candidate(
                values={name: first[name] for name in GROUP},
                params=first["params"],
                macs=first["macs"],
                model_bytes=first["model_bytes"],
                latency_ms=float(np.median(group["latency_ms"].to_numpy())),
                seeds=tuple(group["seed"].to_list()),
                trial_ids=tuple(group["trial_id"].to_list()),
                best=best,
            )
        )
    return found, notes, stopped


def _mean_auroc(scores: Scores) -> float:
    weights = np.ones((1, len(scores.labels)))
    return float(np.mean([auroc(scores.labels, one, weights)[0] for one in scores.probabilities]))


def _auroc_interval(scores: Scores, settings: dict[str, Any]) -> dict[str, float]:
    found = interval(auroc, scores.labels, scores.probabilities, scores.patients, **settings)
    return dataclasses.asdict(found)


def _difference(candidate: Scores, reference: Scores, rule: SelectionRule) -> Interval:
    if candidate.samples != reference.samples:
        raise SearchError("two models were scored on different samples of one split; run the sweep again")
    return paired_difference(
        candidate.labels,
        candidate.probabilities,
        reference.probabilities,
        candidate.patients,
        **_settings(rule),
    )


def _settings(rule: SelectionRule) -> dict[str, Any]:
    return {"confidence": rule.confidence, "resamples": rule.resamples}


def _figures(
    candidate: Candidate,
    thresholds: Mapping[str, float | None],
    scores: Mapping[str, Scores],
    judged: Mapping[str, NDArray[np.bool_] | None],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return the figures of the one network that would be released: the seed best on validation data.

    `scores` and `judged` are by split. Of several labels, each has its own figures besides.
    """
    trial_id, best = candidate.trial_ids[candidate.best], candidate.best
    val = scores["validation"]
    threshold: Threshold = thresholds[trial_id]
    if val.several:
        # As the trial chose them: its table has room for one alone.
        threshold = choose_thresholds(val.labels, val.probabilities[best])
    found: dict[str, Any] = {"trial_id": trial_id, "seed": candidate.seeds[best], "threshold": threshold}
    for split, whole in scores.items():
        one, at = whole.of(judged[split]), threshold
        if isinstance(at, tuple) and judged[split] is not None:
            at = tuple(np.asarray(at)[judged[split]].tolist())
        probabilities = one.probabilities[best]
        found[split] = {
            name: dataclasses.asdict(interval(metric, one.labels, probabilities, one.patients, **settings))
            for name, metric in metrics_at(at, probabilities.shape[1]).items()
        }
    if isinstance(threshold, tuple):
        found["labels"] = label_figures(scores, judged, threshold, best, settings)
    return found

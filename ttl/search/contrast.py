"""Networks held against the whole network's over their seeds: the tests, or why there is none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.errors import SearchError
from ttl.evaluation.labels import scorable
from ttl.evaluation.paired import Pair, Tested, compare_seeds
from ttl.search.rule import SelectionRule
from ttl.search.scores import Predictions, Scores, judged_in_test, judged_labels, read_scores
from ttl.training.division import REDRAWN
from ttl.training.trial import Resplit

TrialIds = tuple[str, ...]
"""The trials of one network, one a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrasts:
    """The tests of networks against the whole one, by their trials, or in words why one has none.

    `note` says over which labels the AUROC compared is a mean, where these are not all that can be scored.
    """

    found: Mapping[TrialIds, Tested | str]
    note: str = ""


def contrasts(
    networks: Iterable[TrialIds],
    whole: TrialIds,
    predictions: Predictions,
    *,
    entry: Mapping[str, Any],
    resplit: Resplit,
    confidence: float,
    resamples: int,
) -> Contrasts:
    """Return each network's test against the whole one, on the test split; seeds are in one order.

    `entry` is the dataset's of `selection.json`. Of several labels, AUROC is the mean over those that enough
    patients have and lack in validation and in test, for every seed, as in the selection.
    """

    @cache
    def read(trial_id: str) -> pl.DataFrame:
        try:
            return predictions(trial_id)
        except FileNotFoundError as error:
            why = f"the predictions of trial {trial_id} are not here (`ttl sweep` brings them)"
            raise SearchError(why) from error

    @cache
    def scores(trial_id: str, split: str) -> Scores:
        return read_scores([trial_id], read, split)

    every = list(networks)
    try:
        truth = [scores(one, "test") for one in whole]
        overlap = _overlap(resplit, entry)
        least = entry.get("rule", {}).get("patients", SelectionRule().patients)
        judged = _judged(truth, [scores(one, "val") for one in whole] if truth[0].several else [], least)
    except SearchError as error:
        return Contrasts(found=dict.fromkeys(every, _why(error)))

    def tested(trial_ids: TrialIds) -> Tested | str:
        try:
            pairs = [
                _pair(scores(one, "test"), other, judged, one)
                for one, other in zip(trial_ids, truth, strict=True)
            ]
            return compare_seeds(pairs, confidence=confidence, resamples=resamples, overlap=overlap)
        except SearchError as error:
            return _why(error)

    note = _note(judged, truth, entry.get("data", {}).get("classes"), least)
    return Contrasts(found={one: tested(one) for one in every}, note=note)


def _why(error: SearchError) -> str:
    return f"There is no test against FTL: {error}"


def _overlap(resplit: Resplit, entry: Mapping[str, Any]) -> float:
    """Return how many images are drawn anew and held out for each that is drawn to be trained on.

    A share of the latter overlaps less than they do, so that it needs no more than this.
    """
    drawn = REDRAWN[resplit]
    if not drawn:
        return 0.0
    images = entry.get("data", {}).get("images")
    if images is None:
        raise SearchError(
            "each seed has a split of its own, and how many images a split has is not known; run the sweep "
            "again"
        )
    return float(sum(images[split] for split in drawn if split != "train") / images["train"])


def _judged(test: Sequence[Scores], val: Sequence[Scores], least: int) -> NDArray[np.bool_] | None:
    """Return the labels that the comparison rests on; None where an image has one class."""
    if not val:
        return None
    kept = [
        judged_in_test(tested, judged_labels(one.labels, one.patients, least), least)
        for tested, one in zip(test, val, strict=True)
    ]
    common: NDArray[np.bool_] = np.all([one for one in kept if one is not None], axis=0)
    if not common.any():
        raise SearchError("no label can be scored with every seed")
    return common


def _note(
    judged: NDArray[np.bool_] | None, test: Sequence[Scores], classes: Sequence[str] | None, least: int
) -> str:
    if judged is None or all((judged == scorable(one.labels)).all() for one in test):
        return ""
    names = classes or [f"label {number}" for number in range(len(judged))]
    listed = ", ".join(name for name, there in zip(names, judged, strict=True) if there)
    return (
        f"AUROC less FTL's, with its p, is of the mean over {listed}: fewer than {least} patients of the "
        "validation or the test split have, or lack, each of the others. The column AUROC is of all labels "
        "that can be scored"
    )


def _pair(candidate: Scores, reference: Scores, judged: NDArray[np.bool_] | None, trial_id: str) -> Pair:
    if candidate.samples != reference.samples:
        raise SearchError(
            f"trial {trial_id} and the whole network of its seed were not scored on the same test samples; "
            "run the sweep again"
        )
    ours, theirs = candidate.of(judged), reference.of(judged)
    return Pair(
        labels=theirs.labels,
        patients=theirs.patients.astype(np.str_),
        candidate=ours.probabilities[0],
        reference=theirs.probabilities[0],
    )

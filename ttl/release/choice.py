"""Which trials, and which images, are shown side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.errors import SearchError
from ttl.search.results import settled, side_by_side
from ttl.training.runs import COMPLETED

Kind = Literal["correct", "disagreement", "error"]

SHOWN = ("ftl", "lwft", "tf", "ttl")
"""The strategies in the paper's order."""

PAIR = ("ftl", "ttl")
"""The strategies whose disagreements are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An image that is shown, by its place in the split, and why."""

    place: int
    kind: Kind


def the_dataset(trials: pl.DataFrame, given: str | None) -> str:
    """Return the dataset of the last sweep that is meant: the one `given`, or the only one there is."""
    return _the_one("dataset", trials["dataset"].unique().sort().to_list(), given)


def the_backbone(trials: pl.DataFrame, selection: Mapping[str, Any], given: str | None) -> str:
    """Return the backbone that is meant: the one `given`, the selected model's, or the only one."""
    return _the_one(
        "backbone",
        trials["backbone"].unique().sort().to_list(),
        given or selection.get("chosen", {}).get("backbone"),
    )


def best_trials(
    trials: pl.DataFrame, selection: Mapping[str, Any], *, dataset: str, backbone: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the row of each strategy's best completed trial, and of strategies without one, why.

    The best is the one with the highest validation AUROC, the smaller first. The selected model comes first
    where it is of ttl: it is the smallest non-inferior one. All are of one condition, as `side_by_side`
    chooses it. Raises `SearchError` if no trial was completed.
    """
    found, missing = {}, {}
    selected = selection.get("figures", {}).get("chosen", {}).get("trial_id")
    known = settled(trials.filter(dataset=dataset, backbone=backbone))
    here = side_by_side(known, selected)
    for strategy in SHOWN:
        asked = here.filter(pl.col("strategy") == strategy)
        done = asked.filter(pl.col("status") == COMPLETED).sort(
            (pl.col("trial_id") == pl.lit(selected)) & (pl.lit(strategy) == "ttl"),
            "val_auroc",
            "params",
            "trial_id",
            descending=[True, True, False, False],
            nulls_last=True,
        )
        if done.height:
            found[strategy] = done.row(0, named=True)
        elif asked.height:
            missing[strategy] = f"none of its {asked.height} trials was completed"
        elif known.filter(strategy=strategy).height:
            missing[strategy] = "its trials are not alike in weights, recipe, size, data or split"
        else:
            missing[strategy] = "the last sweep has no trial of it"
    if not found and (known["resplit"] != "none").any():
        raise SearchError(
            f"no trial of {dataset} with {backbone} was completed on the dataset's own split: with "
            "`--resplit` each seed divides the samples anew, and networks of different splits are not held "
            "side by side; run `ttl sweep` without `--resplit` (with `--resplit none` where params.yaml "
            "sets it)"
        )
    if not found:
        states = ", ".join(known["status"].unique().sort()) or "not in the last sweep"
        raise SearchError(
            f"no trial of {dataset} with {backbone} was completed (they are: {states}); run `ttl sweep` again"
        )
    return found, missing


def choose_images(
    labels: NDArray[np.int64],
    *,
    decisions: Mapping[str, NDArray[np.int64]],
    truth: NDArray[np.float64],
    count: int,
    seed: int,
) -> list[Choice]:
    """Return at most `count` images of a split: half correct, a quarter each disagreements and errors.

    `decisions` are classes [n] by strategy, `truth` [n] the probability of the true class, a mean over
    strategies. Correct images are right by every strategy, class after class, and drawn; disagreements are
    between `PAIR`, and drawn; errors are those of any strategy with the lowest `truth`. What one kind lacks,
    correct images fill, and then errors.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    wrong = np.any([one != labels for one in decisions.values()], axis=0)
    taken: list[Choice] = []

    def take(kind: Kind, places: Sequence[int] | NDArray[np.int64], most: int) -> None:
        used = {one.place for one in taken}
        taken.extend([Choice(place=int(one), kind=kind) for one in places if int(one) not in used][:most])

    errors = np.flatnonzero(wrong)
    errors = errors[np.argsort(truth[errors], kind="stable")]
    take("error", errors, count // 4)
    if set(PAIR) <= set(decisions):
        apart = decisions[PAIR[0]] != decisions[PAIR[1]]
        take("disagreement", order[apart[order]], count // 4)
    right = order[~wrong[order]]
    # The first of each class, then the second of each.
    nth = np.zeros(len(right), dtype=np.int64)
    for one in np.unique(labels):
        here = labels[right] == one
        nth[here] = np.arange(here.sum())
    take("correct", right[np.argsort(nth, kind="stable")], count - len(taken))
    take("error", errors, count - len(taken))
    kinds: tuple[Kind, ...] = ("correct", "disagreement", "error")
    return sorted(taken, key=lambda one: (kinds.index(one.kind), labels[one.place] * (one.kind == "correct")))


def _the_one(what: str, known: Sequence[str], given: str | None) -> str:
    if given is None and len(known) == 1:
        return known[0]
    if given not in known:
        asked = f"no {what} {given!r}" if given else f"more than one {what}, so name it"
        raise SearchError(f"the last sweep has {asked}; there are: {', '.join(known) or 'none'}")
    assert given is not None
    return given

"""The ledger of a search: every model that could have been trained, what was done with it, and why."""

from collections.abc import Mapping

import polars as pl

from ttl.models.cuts import GRANULARITIES
from ttl.models.names import FULL
from ttl.search.plan import Find, Progress
from ttl.search.results import LEDGER_SCHEMA
from ttl.search.space import Series, Space
from ttl.training.runs import COMPLETED, FAILED
from ttl.training.trial import Trial

Key = tuple[str, str, str, str, str, str, str, float]
"""Dataset, backbone, source, strategy, cut, recipe, head and share of a model."""


def key(trial: Trial) -> Key:
    """Return what a trial's model is known by in a ledger."""
    return (
        trial.dataset,
        trial.backbone,
        trial.source,
        trial.strategy,
        trial.cut,
        trial.recipe.name,
        trial.head,
        trial.share,
    )


def ledger(space: Space, progress: Progress, find: Find, reasons: Mapping[Key, str]) -> pl.DataFrame:
    """Return one row a model of the space, in the order of its series and cuts, with `LEDGER_SCHEMA`.

    `find` gives all that is known of a trial, whoever had it trained; `reasons` are the planner's own words,
    of what it asked for. Cuts of the other granularity are listed where it asked for any.
    """
    asked = {trial.granularity for trial in progress.trials.values() if trial.cut != FULL}
    wanted = [one for one in GRANULARITIES if one in asked | {space.granularity}]
    rows: dict[Key, dict[str, object]] = {}
    for series in space.series():
        for granularity in wanted:
            for cut in series.cuts(granularity):
                row = _row(series, series.at(cut), progress, find, reasons)
                rows.setdefault(key(series.at(cut)[0]), row)
    return pl.DataFrame(list(rows.values()), schema=LEDGER_SCHEMA, orient="row")


def _row(
    series: Series, trials: list[Trial], progress: Progress, find: Find, reasons: Mapping[Key, str]
) -> dict[str, object]:
    found = [known for trial in trials if (known := find(trial))]
    asked = [known for trial in trials if (known := progress.known.get(trial.trial_id))]
    states = {known.status for known in found}
    if FAILED in states:
        trained = "failed"
    elif not found:
        trained = "never"
    else:
        trained = "to the end" if states == {COMPLETED} and len(found) == len(trials) else "in part"
    first = trials[0]
    said = "" if asked else "the planner did not ask for it"
    reason = reasons.get(key(first), "a seed failed" if trained == "failed" else said)
    epochs, counted = (sum(len(known.curve) for known in some) for some in (found, asked))
    if epochs > counted:
        # By an idle slot, or by another sweep: it is not what the reason is about.
        reason = f"{reason} (trained beyond that, unasked: {epochs - counted} epochs)".lstrip()
    return {
        "dataset": series.dataset,
        "backbone": series.backbone,
        "source": series.source,
        "strategy": series.strategy,
        "cut": first.cut,
        "cut_index": first.cut_index,
        "granularity": first.granularity,
        "trained": trained,
        "epochs": epochs,
        "full_epochs": len(trials) * first.recipe.epochs,
        "reason": reason,
        "recipe": first.recipe.name,
        "head": first.head,
        "share": first.share,
        "resplit": first.resplit,
    }

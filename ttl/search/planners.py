"""Planners: which steps to run next, given what is known. Pure functions, no files and no clock."""

import math
from functools import partial

from ttl.models.cuts import GRANULARITIES, Cut
from ttl.search.plan import Judge, Planner, Results, to_the_end
from ttl.search.race import RACE, race
from ttl.search.space import Series, Space, between
from ttl.training.runs import COMPLETED
from ttl.training.trial import Step, Trial


def find_planner(name: str, judge: Judge) -> Planner:
    """Return the planner of this name, one of `ttl.params.PLANNERS`; `race` asks what `judge` would say."""
    planners: dict[str, Planner] = {
        "exhaustive": exhaustive,
        "two-stage": two_stage,
        RACE: partial(race, judge=judge),
    }
    return planners[name]


def exhaustive(space: Space, known: Results) -> list[Step]:
    """Plan every strategy at every cut of the space's granularity, with every seed."""
    wanted = [trial for series in space.series() for trial in series.trials(space.granularity)]
    return to_the_end(wanted, known)


def two_stage(space: Space, known: Results) -> list[Step]:
    """Plan as the paper does (Peng et al., BMVC 2023): stage cuts first, then the blocks near the best.

    For each dataset, backbone and strategy, the best stage cut is that of the highest mean validation AUROC
    (of equals, the smaller network); then come the block cuts strictly between its neighbouring stages.
    """
    coarse = [trial for series in space.series() for trial in series.trials("stage")]
    waiting = to_the_end(coarse, known)
    if waiting:
        return waiting
    fine = [
        trial for series in space.series() for cut in _near_best(series, known) for trial in series.at(cut)
    ]
    return to_the_end(fine, known)


def _near_best(series: Series, known: Results) -> list[Cut]:
    stages = [cut for cut in series.cuts("stage") if cut is not None]
    means = [_mean_auroc(series.at(cut), known) for cut in stages]
    if not any(math.isfinite(mean) for mean in means):
        return []
    best = max(range(len(stages)), key=lambda index: (means[index], -index))
    every = {kind: [cut.name for cut in series.space.cuts[series.backbone, kind]] for kind in GRANULARITIES}
    near = set(between(every["stage"], every["block"], stages[best].name))
    return [cut for cut in series.cuts("block") if cut is not None and cut.name in near]


def _mean_auroc(trials: list[Trial], known: Results) -> float:
    values = [
        found.best
        for trial in trials
        if (found := known.get(trial.trial_id)) and found.status == COMPLETED and found.best is not None
    ]
    # One lucky seed of several says nothing: a cut counts with all of them.
    return sum(values) / len(values) if len(values) == len(trials) else -math.inf

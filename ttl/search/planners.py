"""Planners: which steps to run next, given what is known. Pure functions, no files and no clock."""

import math
from functools import partial

from ttl.errors import SearchError
from ttl.models.cuts import Cut
from ttl.search.plan import Judge, Planner, Results, to_the_end
from ttl.search.race import RACE, race
from ttl.search.space import Series, Space, is_last_block
from ttl.training.runs import COMPLETED
from ttl.training.trial import Step, Trial


def find_planner(name: str, judge: Judge) -> Planner:
    """Return the planner of this name; `race` asks `judge` what the selection would say."""
    planners: dict[str, Planner] = {
        "exhaustive": exhaustive,
        "two-stage": two_stage,
        RACE: partial(race, judge=judge),
    }
    if name not in planners:
        raise SearchError(f"no planner is called {name!r}; there are: {', '.join(planners)}")
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
    blocks = [cut for cut in series.cuts("block") if cut is not None]
    names = tuple(cut.name for cut in series.space.cuts[series.backbone, "block"])
    every_stage = series.space.cuts[series.backbone, "stage"]
    place = next(i for i, cut in enumerate(every_stage) if cut.name == stages[best].name)
    ends = [_block_end(cut.name, names) for cut in every_stage]
    low = ends[place - 1] if place > 0 else -1
    high = ends[place + 1] if place + 1 < len(ends) else len(names)
    at_stage = set(ends)
    return [cut for cut in blocks if low < cut.index < high and cut.index not in at_stage]


def _block_end(stage: str, blocks: tuple[str, ...]) -> int:
    return next(i for i, block in enumerate(blocks) if is_last_block(block, stage, blocks))


def _mean_auroc(trials: list[Trial], known: Results) -> float:
    values = [
        found.best
        for trial in trials
        if (found := known.get(trial.trial_id)) and found.status == COMPLETED and found.best is not None
    ]
    return sum(values) / len(values) if values else -math.inf

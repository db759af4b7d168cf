"""The planner `race`: from the smallest model up, until one is proved non-inferior.

The selection takes the smallest non-inferior model. So once one is found, no larger one can be chosen, and
none is begun: that is certain, not an estimate. What is smaller is given up early only where an optimist
would give it up:

- at a rung, where even the best gain that a whole network made from the same epoch on, and as much again,
  would not bring it to the reference less the margin;
- after its first seed, where the others would have to be better than it by more than whole networks differ
  from seed to seed, or the interval narrower than independent seeds would make it. (Where some of the others
  have been trained too, those to come are taken to be as good as the best so far.)

(Early stopping of resumable trials at rungs, as in successive halving: Jamieson & Talwalkar, AISTATS 2016;
but against an absolute bar, the selection's, and not against each other.) A score never removes a cut: what
is decided of each is in the ledger, with its reason.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ttl.errors import SearchError
from ttl.evaluation.statistics import Interval
from ttl.models.cuts import Cut
from ttl.models.network import STRATEGIES
from ttl.search.plan import Judge, Known, Results, to_the_end
from ttl.search.space import Series, Space
from ttl.training.runs import COMPLETED, FAILED
from ttl.training.trial import Step, Trial

RACE = "race"
"""The planner's name."""

RUNG = 1 / 3
"""Share of the epochs after which a model's first seed is looked at."""

ABREAST = 2
"""So many undecided models are begun, the smallest first: more would train what is not needed."""

BLIND = 8
"""So many models are looked at while the whole networks are in training, and slots would stand idle."""

OPTIMISM = 2.0
"""A model may gain so many times what the whole networks gained, before it is given up."""

Decision = Literal["waiting", "selected", "inferior", "unprovable", "failed", "larger", "whole"]
"""`larger`: a smaller non-inferior model is known. `whole`: a reference, which is not raced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A strategy at a cut, with its trials, one a seed, and its estimated parameters."""

    series: Series
    cut: Cut | None
    trials: tuple[Trial, ...]
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is decided of a model, why, and what to run to decide it."""

    model: Model
    decision: Decision
    reason: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What the whole networks set: the reference, its mean validation AUROC, and their courses.

    It is provisional while some of their seeds are in training: good to choose what to train next, and not
    to give anything up.
    """

    reference: Model
    mean: float
    courses: tuple[Known, ...]
    spread: float
    provisional: bool = False

    def hope(self, stopped: Known) -> float:
        """Return the validation AUROC that a stopped trial could reach at best.

        Its distance from 1 may shrink by the largest factor by which a whole network's did from the same
        epoch on, and by `OPTIMISM` more.
        """
        done = len(stopped.curve)
        factors = [(1 - (one.best or 0.0)) / max(1 - max(one.curve[:done]), 1e-6) for one in self.courses]
        return 1 - (1 - max(stopped.curve)) * min([*factors, 1.0]) / OPTIMISM


def race(space: Space, known: Results, *, judge: Judge) -> list[Step]:
    """Plan the whole networks, and beside them the smaller models from the smallest up.

    Raises `SearchError` for a space without whole networks: there is nothing to compare with.
    """
    return [
        step
        for dataset in space.datasets
        for verdict in verdicts(space, dataset, known, judge)
        for step in verdict.steps
    ]


def verdicts(space: Space, dataset: str, known: Results, judge: Judge) -> list[Verdict]:
    """Return what is decided of every model of a dataset, by size; the whole networks come last.

    Each condition (recipe, head, share) is a race of its own.
    """
    if space.resplit != "none":
        raise SearchError(
            "planner race compares models on the same images, and with resplit each seed has others: take "
            "the planner exhaustive or two-stage"
        )
    if all(STRATEGIES[name].cuts for name in space.strategies):
        raise SearchError(
            "planner race compares with the whole network: add the strategy ftl, or take another planner"
        )
    everyone = sorted(_models(space, dataset, judge), key=lambda model: model.size)
    return [
        verdict
        for condition in dict.fromkeys(model.series.condition for model in everyone)
        for verdict in _alike(
            [model for model in everyone if model.series.condition == condition], dataset, known, judge
        )
    ]


def _alike(models: Sequence[Model], dataset: str, known: Results, judge: Judge) -> list[Verdict]:
    """Return what is decided of the models of one condition, which come by size."""
    wholes = [_of_whole(model, known) for model in models if model.cut is None]
    smaller = [model for model in models if model.cut is not None]
    bar = _bar([one.model for one in wholes], known)
    hopeless = ""
    if not judge.provable(dataset):
        hopeless = f"the rule wants {judge.rule.patients} validation patients of each class"
    elif bar is None and not any(one.steps for one in wholes):
        hopeless = "no whole network was completed to compare with"
    if hopeless:
        # Nothing could be selected, however long the others train.
        return [Verdict(model=model, decision="unprovable", reason=hopeless) for model in smaller] + wholes
    limit = bar.reference.size if bar else max(one.model.size for one in wholes)
    return _walk(smaller, known, judge, bar, limit) + wholes


def _walk(
    models: Sequence[Model], known: Results, judge: Judge, bar: Bar | None, limit: float
) -> list[Verdict]:
    found: list[Verdict] = []
    abreast, larger = 0, ""
    most = BLIND if bar is None or bar.provisional else ABREAST
    for model in models:
        if model.size >= limit:
            larger = larger or "no smaller than the whole network"
        if larger:
            verdict = Verdict(model=model, decision="larger", reason=larger)
        elif lost := _lost(model, known):
            verdict = Verdict(model=model, decision="failed", reason=lost)
        elif abreast >= most:
            verdict = Verdict(model=model, decision="waiting", reason="smaller models come first")
        else:
            verdict = _judge(model, known, judge, bar, smallest=not abreast)
        found.append(verdict)
        abreast += bool(verdict.decision == "waiting")
        if verdict.decision == "selected":
            larger = f"larger than {model.series.strategy} at {model.trials[0].cut}, which is non-inferior"
    return found


def _judge(model: Model, known: Results, judge: Judge, bar: Bar | None, *, smallest: bool) -> Verdict:
    """Decide on a model. Once the bar is certain, only the smallest undecided one goes beyond the rung."""
    lead = model.trials[0]
    first = known.get(lead.trial_id)
    waits = partial(Verdict, model=model, decision="waiting")
    if first is None:
        rung = math.ceil(lead.recipe.epochs * RUNG)
        step = Step(trial=lead, epochs=rung if rung < lead.recipe.epochs else None)
        return waits(reason="its first seed is in training", steps=(step,))
    if bar is None:
        return waits(reason="it waits for the whole network")
    hopeless, reason = _doubt(model, first, known, judge, bar)
    if bar.provisional:
        go_on = first.status != COMPLETED and not hopeless
        rest = (Step(trial=lead),) if go_on else ()
        return waits(reason="it waits for the whole network's other seeds", steps=rest)
    if hopeless:
        return Verdict(model=model, decision="inferior", reason=reason)
    if steps := tuple(to_the_end([lead], known) or to_the_end(model.trials, known)):
        return waits(reason=reason, steps=steps) if smallest else waits(reason="smaller models come first")
    gap = judge.difference(model.trials, bar.reference.trials)
    reason = f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) from the whole network"
    passes = gap.low > -judge.rule.margin
    return Verdict(model=model, decision="selected" if passes else "inferior", reason=reason)


def _doubt(model: Model, first: Known, known: Results, judge: Judge, bar: Bar) -> tuple[bool, str]:
    """Return whether a model's first seed, or its first seeds, leave no hope for it, and the figures."""
    margin = judge.rule.margin
    if first.status != COMPLETED:
        needed, hope = bar.mean - margin, bar.hope(first)
        return hope <= needed, (
            f"after epoch {len(first.curve)} of its first seed: validation AUROC {max(first.curve):.4f}, at "
            f"best {hope:.4f} in the end; above {needed:.4f} is needed"
        )
    done = [trial for trial in model.trials if _is_complete(trial, known)]
    if bar.provisional or len(done) == len(model.trials):
        return False, ""
    low = _best_bound(judge.difference(done, bar.reference.trials), model, done, known, bar)
    return low <= -margin, (
        f"after {len(done)} of {len(model.trials)} seeds: the lower bound of the difference from the "
        f"whole network is at best {low:+.4f} in the end; above {-margin:+.4f} is needed"
    )


def _best_bound(gap: Interval, model: Model, done: Sequence[Trial], known: Results, bar: Bar) -> float:
    """Return what the interval's lower bound could be at best when all seeds are done.

    The variance of a mean of n exchangeable seeds is at least k/n of that of k.
    """
    aurocs = [known[trial.trial_id].best or 0.0 for trial in done]
    share = len(done) / len(model.trials)
    ahead = max(aurocs) - sum(aurocs) / len(aurocs) if len(done) > 1 else bar.spread
    return gap.value + (1 - share) * ahead - (gap.value - gap.low) * math.sqrt(share)


def _is_complete(trial: Trial, known: Results) -> bool:
    found = known.get(trial.trial_id)
    return found is not None and found.status == COMPLETED


def _of_whole(model: Model, known: Results) -> Verdict:
    if steps := to_the_end(model.trials, known):
        return Verdict(model=model, decision="waiting", reason="in training", steps=tuple(steps))
    if lost := _lost(model, known):
        return Verdict(model=model, decision="failed", reason=lost)
    return Verdict(model=model, decision="whole", reason="what the others are compared with")


def _models(space: Space, dataset: str, judge: Judge) -> Iterator[Model]:
    for series in space.series():
        if series.dataset == dataset:
            for cut in series.cuts(space.granularity):
                size = judge.size(series, cut)
                yield Model(series=series, cut=cut, trials=tuple(series.at(cut)), size=size)


def _bar(wholes: Sequence[Model], known: Results) -> Bar | None:
    """Return the bar that the whole networks set, provisional while any is in training.

    None before each has two seeds, or as many as it will have, and if all seeds of none were completed.
    """
    waiting = any(to_the_end(one.trials, known) for one in wholes)
    aurocs: dict[int, list[float]] = {}
    for position, one in enumerate(wholes):
        done = [trial for trial in one.trials if _is_complete(trial, known)]
        if len(done) < min(2, len(one.trials)) and to_the_end(one.trials, known):
            return None
        if done and not _lost(one, known):
            aurocs[position] = [known[trial.trial_id].best or 0.0 for trial in done]
    if not aurocs:
        return None
    means = {position: sum(values) / len(values) for position, values in aurocs.items()}
    best = max(means, key=lambda position: (means[position], -wholes[position].size))
    trials = [trial for position in aurocs for trial in wholes[position].trials]
    return Bar(
        reference=wholes[best],
        mean=means[best],
        courses=tuple(known[trial.trial_id] for trial in trials if _is_complete(trial, known)),
        spread=max(max(values) - min(values) for values in aurocs.values()),
        provisional=waiting,
    )


def _lost(model: Model, known: Results) -> str:
    failed = [t.seed for t in model.trials if (found := known.get(t.trial_id)) and found.status == FAILED]
    return f"seed {failed[0]} failed" if failed else ""

"""What planners see and give: results so far, steps to run next; and following one as far as it got."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ttl.evaluation.statistics import Interval
from ttl.models.cuts import Cut
from ttl.search.rule import SelectionRule
from ttl.search.space import Series, Space
from ttl.training.runs import COMPLETED, FAILED, STOPPED
from ttl.training.trial import Step, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a trial: its status, and its validation AUROC after each epoch so far.

    `best` is the validation AUROC of the epoch whose weights it keeps; None for a failure.
    """

    status: str
    best: float | None = None
    curve: tuple[float, ...] = ()

    def at(self, step: Step) -> "Known | None":
        """Return what was known when the step had just been done; None if it has not been."""
        if self.status == FAILED or (self.status == COMPLETED and len(self.curve) <= step.length):
            return self
        if len(self.curve) < step.length:
            return None
        curve = self.curve[: step.length]
        return replace(self, status=STOPPED, curve=curve, best=max(curve))


Results = Mapping[str, Known]
"""What is known, by trial."""

Find = Callable[[Trial], Known | None]
"""Gives all that is known of a trial."""

Planner = Callable[[Space, Results], list[Step]]
"""A pure function from what is known to the steps to run next; none when it has its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What a planner may ask of the selection: its rule, and the comparisons that it would make.

    `provable` says of a dataset whether it has the patients without whom the rule lets nothing pass.
    `difference` gives the interval of validation AUROC between the models of two sets of completed trials,
    the second being the reference. `size` estimates the parameters of a series at a cut, None being `full`.
    """

    rule: SelectionRule
    provable: Callable[[str], bool]
    difference: Callable[[Sequence[Trial], Sequence[Trial]], Interval]
    size: Callable[[Series, Cut | None], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a planner got: its trials, what it knows of them, and the steps that it waits for.

    Of the trials that it asked for, those are left out that it then did without before they were begun.
    """

    trials: Mapping[str, Trial]
    known: Results
    waiting: Sequence[Step]


def follow(planner: Planner, space: Space, find: Find) -> Progress:
    """Follow a planner through all steps that have been done.

    `find` gives all that is known of a trial. Of that, the planner is shown what its own steps would have
    brought: so its decisions do not depend on what else has been trained, or on which sweep did it. It is
    asked again as soon as any of its steps is done, and need not wait for the others.
    """
    trials: dict[str, Trial] = {}
    known: dict[str, Known] = {}
    while True:
        waiting: list[Step] = []
        news = False
        for step in planner(space, known):
            trial_id = step.trial.trial_id
            trials[trial_id] = step.trial
            found = find(step.trial)
            shown = found and found.at(step)
            if shown is None:
                waiting.append(step)
            elif shown != known.get(trial_id):
                known[trial_id] = shown
                news = True
        if not news:
            # What it had asked for, and no longer needs once more is known, may never have been begun.
            asked = {*known, *(step.trial.trial_id for step in waiting)}
            trials = {trial_id: trial for trial_id, trial in trials.items() if trial_id in asked}
            return Progress(trials=trials, known=known, waiting=waiting)


def to_the_end(trials: Iterable[Trial], known: Results) -> list[Step]:
    """Return steps to the recipe's end for the trials that have not come to theirs, each once."""
    fresh = {
        trial.trial_id: trial
        for trial in trials
        if (found := known.get(trial.trial_id)) is None or found.status == STOPPED
    }
    return [Step(trial=trial) for trial in fresh.values()]

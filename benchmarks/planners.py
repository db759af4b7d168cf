"""What each planner spends and selects, by simulation on trials that an exhaustive sweep has trained.

`python -m benchmarks.planners --dataset pneumoniamnist --seed 0 --seed 1 --seed 2` in a project's folder,
after `ttl sweep --planner exhaustive` with the same options. Nothing is trained. The flow is simulated event
by event: a step occupies one of `--slots` for as long as its multiply-accumulates take, the heaviest first;
the planner is asked again whenever a slot is free, and is shown of each recorded trial what its own steps
have brought so far.

MACs and time are shares of the exhaustive sweep's, with all that was begun; regret is the validation AUROC
(mean over seeds) of the exhaustive sweep's model less that of the planner's; size is its parameters, as a
multiple. A stage's cut is the cut at its last block: the trial of one stands for the other's.
"""

import heapq
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ttl.errors import SearchError
from ttl.layout import Layout
from ttl.params import load_params
from ttl.search.plan import Known, Progress, follow
from ttl.search.results import collect
from ttl.search.selection import select
from ttl.search.space import is_last_block
from ttl.sweep import Sweep
from ttl.training.trial import Step, Trial

PLANNERS = ("exhaustive", "two-stage", "race")


def main(
    dataset: Annotated[list[str], typer.Option(help="Repeatable.")],
    strategy: Annotated[list[str] | None, typer.Option(help="Repeatable; as in params.yaml if none.")] = None,
    granularity: Annotated[str, typer.Option(help="stage or block.")] = "block",
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable.")] = None,
    slots: Annotated[int, typer.Option(help="Of the simulated machine.")] = 2,
) -> None:
    """Print a row for each dataset and planner."""
    layout = Layout(root=Path.cwd())
    table = Table("dataset", "planner", "MACs", "time", "trials", "selected", "size", "regret", box=None)
    for name in dataset:
        whole: dict[str, Any] = {}
        for planner in PLANNERS:
            given = {"strategies": strategy, "granularity": granularity, "seeds": seed, "planner": planner}
            overrides = {"datasets": [name]} | {key: value for key, value in given.items() if value}
            found = Simulation(Sweep(load_params(overrides=overrides), layout)).run(slots)
            if isinstance(found, str):
                table.add_row(name, planner, "–", "–", "–", found)
                if not whole:
                    break
                continue
            whole = whole or found
            chosen = found["chosen"]
            table.add_row(
                name,
                planner,
                f"{found['macs'] / whole['macs']:.1%}",
                f"{found['time'] / whole['time']:.1%}",
                str(found["trials"]),
                f"{chosen['strategy']} {chosen['cut']}",
                f"{chosen['params'] / whole['chosen']['params']:.2f}",
                f"{whole['chosen']['val_auroc']['value'] - chosen['val_auroc']['value']:+.4f}",
            )
    Console(width=120).print(table)


class Simulation:
    """A sweep whose trials have all been trained, run again without training."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.runs = sweep, sweep.layout.runs
        self.reached: dict[str, int] = {}
        self.macs = 0.0

    def run(self, slots: int) -> dict[str, Any] | str:
        """Return what the sweep comes to, and costs; or why that is not known."""
        sweep = self.sweep
        running: list[tuple[float, int, Step]] = []
        now, number, handed = 0.0, 0, set()
        while True:
            waiting = [
                step for step in follow(sweep.planner, sweep.space, self._find).waiting if step not in handed
            ]
            if missing := sum(self._recorded(step.trial) is None for step in waiting):
                return f"not known: {missing} of its trials were never trained"
            # The flow packs the heaviest first, too.
            for step in sorted(waiting, key=self._work, reverse=True)[: slots - len(running)]:
                work = self._work(step)
                self.macs += work
                handed.add(step)
                heapq.heappush(running, (now + work, number, step))
                number += 1
            if not running:
                break
            now, _, step = heapq.heappop(running)
            self.reached[step.trial.trial_id] = step.length
        progress = follow(sweep.planner, sweep.space, self._find)
        trials = {(one := self._same(trial)).trial_id: one for trial in progress.trials.values()}
        known = {self._same(progress.trials[name]).trial_id: one for name, one in progress.known.items()}
        progress = Progress(trials=trials, known=known, waiting=())
        try:
            chosen = select(collect(progress, self.runs), self.runs.predictions, sweep.params.selection)[
                "chosen"
            ]
        except SearchError as error:
            return str(error)
        return {"macs": self.macs, "time": now, "trials": len(self.reached), "chosen": chosen}

    def _find(self, trial: Trial) -> Known | None:
        """Return what is known by now: the epochs that the simulation has come to."""
        epochs, recorded = self.reached.get(trial.trial_id), self._recorded(trial)
        if recorded is None or epochs is None:
            return None
        return recorded if epochs >= trial.recipe.epochs else recorded.at(Step(trial=trial, epochs=epochs))

    def _recorded(self, trial: Trial) -> Known | None:
        return self.sweep.find(trial) or self.sweep.find(self._same(trial))

    def _same(self, trial: Trial) -> Trial:
        """Return the trial that was recorded: the one at the last block, for a stage's that was not."""
        if trial.granularity != "stage" or self.sweep.find(trial) is not None:
            return trial
        blocks = self.sweep.space.cuts[trial.backbone, "block"]
        names = tuple(cut.name for cut in blocks)
        last = next((cut for cut in blocks if is_last_block(cut.name, trial.cut, names)), None)
        if last is None:
            return trial
        return replace(trial, cut=last.name, cut_index=last.index, granularity="block")

    def _work(self, step: Step) -> float:
        """Return the step's multiply-accumulates of training, by the recorded trial's."""
        result = self.runs.result(self._same(step.trial).trial_id)
        assert result is not None
        epochs = min(step.length, result["epochs"]) - self.reached.get(step.trial.trial_id, 0)
        return float(result["train_macs"] * epochs / result["epochs"])


if __name__ == "__main__":
    typer.run(main)

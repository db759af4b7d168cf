"""A sweep without its scheduler: what to run next, and what its results come to.

`flows.sweep` runs the jobs; everything that decides is here.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from ttl.data.dataset import PackedDataset
from ttl.errors import SearchError, TTLError
from ttl.layout import Layout
from ttl.models.backbones import weights_sha256
from ttl.models.cuts import GRANULARITIES, Cut, list_cuts
from ttl.models.names import Granularity
from ttl.models.profile import profile
from ttl.params import Params
from ttl.search import results
from ttl.search.outcome import Outcome, fingerprint, stamp, unstamp
from ttl.search.packs import pack
from ttl.search.planners import Known, find_planner, planned
from ttl.search.selection import select
from ttl.search.space import Space
from ttl.training.launch import Slot, find_slots
from ttl.training.runs import FAILED, Runs
from ttl.training.trial import Trial

logger = logging.getLogger(__name__)


class Sweep:
    """A sweep over the trials that `params` describe.

    With `merge`, other datasets' results stay in the tables; without, the tables are this sweep's alone. A
    failed trial of an earlier sweep is run again; one that fails in this sweep is not.
    """

    def __init__(self, params: Params, layout: Layout, *, merge: bool = False) -> None:
        self.params, self.layout, self.merge = params, layout, merge
        self.planner = find_planner(params.sweep.planner)
        self.datasets = {name: PackedDataset.open(layout.datasets / name) for name in params.datasets}
        for dataset in self.datasets.values():
            if dataset.info.task == "multilabel":
                raise SearchError(f"{dataset.info.name} is multilabel, which cannot be trained yet")
        self.space = make_space(params, self.datasets)
        self.handed: set[str] = set()
        # Of before the training: what changes meanwhile is not what was trained on.
        self.key = fingerprint(params, layout, merge=merge)

    def pending(self) -> list[Trial]:
        """Return the trials to run next; none when the sweep is at its end."""
        known: dict[str, Known] = {}
        while True:
            # A planner that sees a result may plan on from it: ask until it names a trial without one.
            waiting = self.planner(self.space, known)
            fresh = []
            for trial in waiting:
                found = self._find(trial)
                if found is None or (found.status == FAILED and trial.trial_id not in self.handed):
                    fresh.append(trial)
                else:
                    known[trial.trial_id] = found
            if fresh or not waiting:
                return fresh

    def slots(self) -> tuple[Slot, ...]:
        """Return the slots that jobs may run on."""
        return find_slots(self.params.sweep.processes, self.params.sweep.slots)

    def jobs(self, trials: Sequence[Trial], slots: int) -> list[list[Trial]]:
        """Share trials out into jobs, and remember that they were."""
        self.handed |= {trial.trial_id for trial in trials}
        weights = {trial.trial_id: self._work(trial) for trial in trials}
        return pack(trials, weights, slots)

    def finish(self) -> Outcome:
        """Write the tables, select, and export the selected models.

        The model of a dataset without a selection stays as an earlier sweep left it.
        """
        with self._alone():
            return self._finish()

    def _finish(self) -> Outcome:
        runs = self.layout.runs
        trials = results.collect(planned(self.planner, self.space, self._find), runs)
        selections: dict[str, Any] = {}
        unselected: dict[str, str] = {}
        for name, dataset in self.datasets.items():
            try:
                chosen = select(
                    trials.filter(pl.col("dataset") == name), runs.predictions, self.params.selection
                )
            except SearchError as error:
                unselected[name] = str(error)
                continue
            selections[name] = {"data": describe(dataset), **chosen}
        unstamp(self.layout)
        left_out = {
            name: {"unselected": reason, "data": describe(self.datasets[name])}
            for name, reason in unselected.items()
        }
        self._write(trials, selections | left_out)
        for name, selection in selections.items():
            _export(selection, runs, self.datasets[name], self.layout.models)
        outcome = Outcome(trials=trials, selections=selections, unselected=unselected)
        if not outcome.failed and not unselected:
            stamp(self.layout, self.key)
        return outcome

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other sweeps' ends from the tables and models meanwhile."""
        locks = self.layout.runs.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / "results.lock"):
            yield

    def _find(self, trial: Trial) -> Known | None:
        result = self.layout.runs.result(trial.trial_id)
        if result is None:
            return None
        return Known(status=result["status"], val_auroc=result.get("val_auroc"))

    def _write(self, trials: pl.DataFrame, entries: dict[str, Any]) -> None:
        runs, folder = self.layout.runs, self.layout.results
        history = results.histories(trials, runs)
        if self.merge and (folder / results.TRIALS).is_file():
            others = results.read_trials(folder).filter(~pl.col("dataset").is_in(list(self.datasets)))
            kept = results.read_history(folder).filter(pl.col("trial_id").is_in(others["trial_id"].implode()))
            trials, history = pl.concat([others, trials]), pl.concat([kept, history])
            before = results.read_entries(folder)
            entries = {name: one for name, one in before.items() if name not in self.datasets} | entries
        results.write(folder, trials, history, entries)

    def _work(self, trial: Trial) -> float:
        found = profile(trial.backbone, trial.image_size)
        images = sum(self.datasets[trial.dataset].info.counts["train"].values())
        return images * found.training_work(trial.strategy, trial.cut)


def make_space(params: Params, datasets: Mapping[str, PackedDataset]) -> Space:
    """Return the space of a sweep."""
    sweep = params.sweep
    cuts: dict[tuple[str, Granularity], tuple[Cut, ...]] = {
        (backbone, granularity): list_cuts(backbone, granularity)
        for backbone in sweep.backbones
        for granularity in GRANULARITIES
    }
    return Space(
        datasets={name: dataset.revision for name, dataset in datasets.items()},
        backbones=sweep.backbones,
        sources=sweep.sources,
        strategies=sweep.strategies,
        granularity=sweep.granularity,
        seeds=sweep.seeds,
        recipe=sweep.made_recipe(),
        image_size=sweep.image_size,
        processes=sweep.processes,
        cuts=cuts,
        weights={
            (backbone, source): weights_sha256(backbone, source)
            for backbone in sweep.backbones
            for source in sweep.sources
        },
    )


def describe(dataset: PackedDataset) -> dict[str, Any]:
    """Return what a selection says of its data."""
    patients = dataset.samples.group_by("split").agg(pl.col("patient_id").n_unique())
    return {
        **dataset.info.to_dict(),
        "revision": dataset.revision,
        "patients": dict(patients.sort("split").iter_rows()),
    }


def _export(selection: Mapping[str, Any], runs: Runs, dataset: PackedDataset, out: Path) -> None:
    from ttl.release.export import export_model  # noqa: PLC0415 - torch's ONNX exporter takes seconds to import

    try:
        export_model(selection, runs=runs.root, dataset=dataset, out=out)
    except TTLError:
        shutil.rmtree(out / dataset.info.name, ignore_errors=True)
        raise

"""A sweep without its scheduler: what to run next, and what its results come to.

`flows.sweep` runs the jobs; everything that decides is here.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from ttl.data.dataset import PackedDataset
from ttl.data.labels import to_array
from ttl.data.steps import depth_at
from ttl.errors import ParamsError, SearchError, TTLError
from ttl.evaluation.statistics import Interval
from ttl.layout import Layout
from ttl.models.backbones import weights_sha256
from ttl.models.cuts import GRANULARITIES, Cut, list_cuts
from ttl.models.names import FULL, Granularity, Head
from ttl.models.profile import head_size, profile
from ttl.models.weights import VIDEO, pairs
from ttl.params import Params
from ttl.search import results, scored
from ttl.search.ledger import Key, key, ledger
from ttl.search.outcome import Outcome, fingerprint, stamp, unstamp
from ttl.search.packs import pack
from ttl.search.plan import Judge, Known, Progress, Results, follow
from ttl.search.planners import find_planner
from ttl.search.race import RACE, verdicts
from ttl.search.scores import patients_by_label
from ttl.search.selection import compare, select
from ttl.search.space import Series, Space
from ttl.training.division import check_resplit
from ttl.training.runs import COMPLETED, FAILED, Runs
from ttl.training.trial import Step, Trial

logger = logging.getLogger(__name__)

BROUGHT_AT_ONCE = 16
"""Results asked of the store side by side: each is a few small files."""


class Sweep:
    """A sweep over the trials that `params` describe.

    With `merge`, other datasets' results stay in the tables; without, the tables are this sweep's alone. A
    failed trial of an earlier sweep is run again; one that fails in this sweep is not.
    """

    def __init__(self, params: Params, layout: Layout, *, merge: bool = False) -> None:
        self.params, self.layout, self.merge = params, layout, merge
        self.datasets = {name: PackedDataset.open(layout.datasets / name) for name in params.datasets}
        for dataset in self.datasets.values():
            check_resplit(params.sweep.resplit, dataset)
        self.space = make_space(params, self.datasets)
        self.differences: dict[tuple[tuple[str, ...], tuple[str, ...]], Interval] = {}
        self.judge = Judge(
            rule=params.selection,
            provable=self._provable,
            difference=self._difference,
            size=self._size,
        )
        self.planner = find_planner(params.sweep.planner, self.judge)
        store = layout.runs.store
        self.elsewhere = set() if store is None else store.trials()
        self.synced: set[str] = set()
        self.handed: dict[str, Step] = {}
        self.tried: set[str] = set()
        self.seen: dict[str, Known] = {}
        # Of before the training: what changes meanwhile is not what was trained on.
        self.key = fingerprint(params, layout, merge=merge)

    def pending(self) -> list[Step]:
        """Return the steps that the planner waits for, but not those that were handed out already.

        None are left when all that it wants is running, or done.
        """

        def find(trial: Trial) -> Known | None:
            found = self.find(trial)
            again = found and found.status == FAILED and trial.trial_id not in self.tried
            return None if again else found

        waiting = follow(self._asked, self.space, find).waiting
        return [step for step in waiting if self.handed.get(step.trial.trial_id) != step]

    def progress(self) -> Progress:
        """Return how far the planner has got."""
        return follow(self._asked, self.space, self.find)

    def _asked(self, space: Space, known: Results) -> list[Step]:
        """Ask the planner; of the trials that it names, this machine and the others get what they lack."""
        steps = self.planner(space, known)
        new = {step.trial.trial_id for step in steps} - self.synced
        if self.layout.runs.store is not None and new:
            with ThreadPoolExecutor(BROUGHT_AT_ONCE) as several:
                list(several.map(self._exchange, sorted(new)))
            self.synced |= new
        return steps

    def _exchange(self, trial_id: str) -> None:
        self.layout.runs.exchange(trial_id, there=trial_id in self.elsewhere)

    def packs(self, steps: Sequence[Step], slots: int) -> list[list[Step]]:
        """Share steps out into packs, the first ones first."""
        return pack(steps, {step.trial.trial_id: self._work(step) for step in steps}, slots)

    def hand(self, steps: Sequence[Step]) -> None:
        """Remember that these steps are being run."""
        self.handed |= {step.trial.trial_id: step for step in steps}

    def unfinished(self, steps: Sequence[Step]) -> list[Step]:
        """Return those of some steps that have not been done yet."""
        return [step for step in steps if (found := self.find(step.trial)) is None or found.at(step) is None]

    def take_back(self, steps: Sequence[Step]) -> None:
        """Remember that these steps have been run, here or elsewhere: a failure is now this sweep's own."""
        self.tried |= {step.trial.trial_id for step in steps}
        for step in steps:
            self.layout.runs.refresh(step.trial.trial_id)

    def give_up(self, steps: Sequence[Step]) -> None:
        """Forget that these steps were handed out: whoever had them is gone."""
        for step in steps:
            self.handed.pop(step.trial.trial_id, None)

    def finish(self) -> Outcome:
        """Write the tables, select, and export the selected models.

        The model of a dataset without a selection stays as an earlier sweep left it.
        """
        with self._alone():
            return self._finish()

    def _finish(self) -> Outcome:
        runs = self.layout.runs
        progress = self.progress()
        if progress.waiting:
            step = progress.waiting[0]
            raise SearchError(
                f"{step.trial.label} ({step.trial.trial_id}) has no result: the sweep is not finished"
            )
        trials = results.collect(progress, runs)
        selections: dict[str, Any] = {}
        unselected: dict[str, str] = {}
        experiments: dict[str, str] = {}
        for name, dataset in self.datasets.items():
            mine = trials.filter(pl.col("dataset") == name)
            if results.ordinary(mine).is_empty():
                experiments[name] = results.why_no_release(mine)
                continue
            try:
                chosen = select(mine, runs.predictions, self.params.selection, dataset.info.classes)
            except SearchError as error:
                unselected[name] = str(error)
                continue
            selections[name] = {"data": describe(dataset), **chosen}
        unstamp(self.layout)
        left_out = {
            name: {
                "unselected": reason,
                "experiment": name in experiments,
                "data": describe(self.datasets[name]),
            }
            for name, reason in {**unselected, **experiments}.items()
        }
        self._write(
            trials, selections | left_out, ledger(self.space, progress, self.find, self._reasons(progress))
        )
        for name, selection in selections.items():
            runs.weights(selection["figures"]["chosen"]["trial_id"])
            _export(selection, runs, self.datasets[name], self.layout.models)
        outcome = Outcome(
            trials=trials, selections=selections, unselected=unselected, experiments=experiments
        )
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

    def find(self, trial: Trial) -> Known | None:
        """Return what is known of a trial.

        An end is for good, and is read once. A folder that is just being replaced by a newer one is what it
        was before.
        """
        seen = self.seen.get(trial.trial_id)
        if seen is not None and seen.status == COMPLETED:
            return seen
        try:
            found = self._read(trial) or seen
        except FileNotFoundError:
            found = seen
        if found is not None:
            self.seen[trial.trial_id] = found
        return found

    def _read(self, trial: Trial) -> Known | None:
        result = self.layout.runs.result(trial.trial_id)
        if result is None:
            return None
        if result["status"] == FAILED:
            return Known(status=FAILED)
        curve = self.layout.runs.history(trial.trial_id)["val_auroc"].to_list()
        return Known(status=result["status"], best=result["val_auroc"], curve=tuple(curve))

    def _difference(self, ones: Sequence[Trial], references: Sequence[Trial]) -> Interval:
        pair = tuple(trial.trial_id for trial in ones), tuple(trial.trial_id for trial in references)
        if pair not in self.differences:
            self.differences[pair] = compare(*pair, self.layout.runs.predictions, self.params.selection)
        return self.differences[pair]

    def _provable(self, name: str) -> bool:
        dataset = self.datasets[name]
        val = dataset.samples.filter(pl.col("split") == "val")
        if dataset.info.task == "multilabel":
            counts = patients_by_label(to_array(val["label"]), val["patient_id"].to_numpy())
            return bool((counts >= self.params.selection.patients).all(axis=0).any())
        patients = val.group_by("label").agg(pl.col("patient_id").n_unique())["patient_id"]
        return bool((patients >= self.params.selection.patients).all())

    def _size(self, series: Series, cut: Cut | None) -> float:
        name, image_size = cut.name if cut else FULL, self.params.sweep.image_size
        found = profile(series.backbone, image_size).size(series.strategy, name)
        if series.head == "pooled":
            return found
        # Such a head may be larger than all below it.
        classes = len(self.datasets[series.dataset].info.classes)
        return found + head_size(series.backbone, series.strategy, name, classes, image_size)

    def _reasons(self, progress: Progress) -> dict[Key, str]:
        if self.params.sweep.planner != RACE:
            return {}
        return {
            key(verdict.model.trials[0]): verdict.reason
            for name in self.datasets
            for verdict in verdicts(self.space, name, progress.known, self.judge)
        }

    def _write(self, trials: pl.DataFrame, entries: dict[str, Any], book: pl.DataFrame) -> None:
        runs, folder, mine = self.layout.runs, self.layout.results, entries
        history = results.histories(trials, runs)
        if self.merge and (folder / results.TRIALS).is_file():
            others = results.read_trials(folder).filter(~pl.col("dataset").is_in(list(self.datasets)))
            kept = results.read_history(folder).filter(pl.col("trial_id").is_in(others["trial_id"].implode()))
            trials, history = pl.concat([others, trials]), pl.concat([kept, history])
            elsewhere = ~pl.col("dataset").is_in(list(self.datasets))
            book = pl.concat([results.read_ledger(folder).filter(elsewhere), book])
            before = results.read_entries(folder)
            entries = {name: one for name, one in before.items() if name not in self.datasets} | entries
        results.write(folder, trials=trials, history=history, entries=entries, ledger=book)
        scored.write(
            folder,
            selections={name: one for name, one in mine.items() if "unselected" not in one},
            predictions=runs.predictions,
            trials=trials,
            history=history,
            kept=[name for name in entries if name not in self.datasets],
        )

    def _work(self, step: Step) -> float:
        trial, found = step.trial, self.find(step.trial)
        images = trial.share * self.datasets[trial.dataset].info.sizes["train"]
        epochs = step.length - (len(found.curve) if found else 0)
        depth = depth_at(self.datasets[trial.dataset].info.shape, trial.image_size)
        work = profile(trial.backbone, trial.image_size, depth).training_work(trial.strategy, trial.cut)
        return epochs * images * work


def make_space(params: Params, datasets: Mapping[str, PackedDataset]) -> Space:
    """Return the space of a sweep."""
    sweep = params.sweep
    _check_dimensions(sweep.backbones, datasets)
    _check_heads(sweep.heads, sweep.backbones)
    _check_cuts(sweep.cuts, sweep.backbones)
    cuts: dict[tuple[str, Granularity], tuple[Cut, ...]] = {
        (backbone, granularity): _wanted(list_cuts(backbone, granularity), sweep.cuts)
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
        recipes=sweep.made_recipes(),
        heads=sweep.heads,
        shares=sweep.shares,
        resplit=sweep.resplit,
        image_size=sweep.image_size,
        processes=sweep.processes,
        cuts=cuts,
        weights={
            (backbone, source): weights_sha256(backbone, source)
            for backbone, source in pairs(sweep.backbones, sweep.sources)
        },
    )


def _check_dimensions(backbones: tuple[str, ...], datasets: Mapping[str, PackedDataset]) -> None:
    images = [name for name, dataset in datasets.items() if not dataset.info.volumes]
    for backbone in backbones:
        if backbone in VIDEO and images:
            raise ParamsError(
                f"{backbone} takes volumes, and {images[0]} has images; a sweep of it takes backbones of timm"
            )


def _check_heads(heads: tuple[Head, ...], backbones: tuple[str, ...]) -> None:
    for backbone in backbones:
        if backbone in VIDEO and "flattened" in heads:
            raise ParamsError(
                f"sweep.heads has flattened, and {backbone} takes volumes: its head is pooled; a sweep with "
                "flattened ones takes backbones of timm"
            )


def _check_cuts(names: tuple[str, ...] | None, backbones: tuple[str, ...]) -> None:
    known = {
        cut.name for one in backbones for granularity in GRANULARITIES for cut in list_cuts(one, granularity)
    }
    for name in names or ():
        if name not in known:
            raise ParamsError(
                f"sweep.cuts has {name!r}, which is no cut of {', '.join(backbones)}; `ttl cuts` lists them"
            )


def _wanted(cuts: tuple[Cut, ...], names: tuple[str, ...] | None) -> tuple[Cut, ...]:
    """Return the cuts of these names, and the whole backbone."""
    return tuple(cut for cut in cuts if names is None or cut.name in names or cut.whole)


def describe(dataset: PackedDataset) -> dict[str, Any]:
    """Return what a selection says of its data."""
    patients = dataset.samples.group_by("split").agg(pl.col("patient_id").n_unique())
    return {
        **dataset.info.to_dict(),
        "images": dataset.info.sizes,
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

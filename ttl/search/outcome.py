"""What a sweep came to, and whether what lies in a project's folder is still that."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

import ttl
from ttl.data.dataset import PackedDataset
from ttl.layout import Layout
from ttl.models.weights import locate, pairs
from ttl.params import RUNNING, Params
from ttl.search import results
from ttl.training.runs import FAILED, RESULT

STAMP = "sweep.json"

UNKNOWN: Mapping[str, Any] = {"unselected": "the sweep has no entry of it"}

PACKAGES = ("torch", "timm", "accelerate", "numpy", "polars", "scikit-learn")
"""Packages whose version may change a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a sweep came to. `unselected` says, for a dataset without a selection, why.

    `experiments` says it for those where none was wanted: their models are compared, and not released.
    """

    trials: pl.DataFrame
    selections: Mapping[str, Any]
    unselected: Mapping[str, str]
    experiments: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """The number of failed trials."""
        return self.trials.filter(pl.col("status") == FAILED).height

    @property
    def lost_strategies(self) -> list[str]:
        """Strategies of which every trial of a dataset failed: `phantom ttl`."""
        lost = (
            self.trials.group_by("dataset", "strategy", maintain_order=True)
            .agg((pl.col("status") == FAILED).all().alias("lost"))
            .filter("lost")
        )
        return [f"{row['dataset']} {row['strategy']}" for row in lost.iter_rows(named=True)]


def fingerprint(params: Params, layout: Layout, *, merge: bool) -> str:
    """Return a hash of all that a sweep's outputs follow from: settings, data, code, packages, weights files.

    Raises `DataError` if a dataset is not packed.
    """
    package = Path(ttl.__file__).parent
    code = [
        (path.relative_to(package).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", ".j2", ".css", ".js")
    ]
    wanted = pairs(params.sweep.backbones, params.sweep.sources)
    places = [locate(backbone, source) for backbone, source in wanted]
    weights = [place.path for place in places if place.path]
    known = {
        "sweep": {**asdict(params.sweep), **dict.fromkeys(RUNNING)}
        | {"recipe": [asdict(recipe) for recipe in params.sweep.made_recipes()]},
        "selection": asdict(params.selection),
        "merge": merge,
        "revisions": {name: PackedDataset.open(layout.datasets / name).revision for name in params.datasets},
        "weights": [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in weights],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": code,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def stamp(layout: Layout, key: str) -> None:
    """Note that the outputs of the sweep with this fingerprint are whole."""
    values = {"fingerprint": key, "tables": results.digests(layout.results)}
    (layout.results / STAMP).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def unstamp(layout: Layout) -> None:
    """Note that the outputs are about to change: they are nobody's until they are stamped again."""
    (layout.results / STAMP).unlink(missing_ok=True)


def current(params: Params, layout: Layout, key: str) -> Outcome | None:
    """Return the outcome of the sweep with this fingerprint if all of it lies there, whole; else None."""
    try:
        found = json.loads((layout.results / STAMP).read_text(encoding="utf-8"))
        if found != {"fingerprint": key, "tables": results.digests(layout.results)}:
            return None
    except (OSError, ValueError):
        return None
    names = list(params.datasets)
    trials = results.read_trials(layout.results).filter(pl.col("dataset").is_in(names))
    known = results.read_entries(layout.results)
    selections = {name: known[name] for name in names if "unselected" not in known.get(name, UNKNOWN)}
    experiments = {
        name: known[name]["unselected"] for name in names if known.get(name, UNKNOWN).get("experiment")
    }
    if {*selections, *experiments} != set(names) or any(
        not _is_exported(layout, one) for one in selections.values()
    ):
        return None
    if any(not (layout.runs.folder(one) / RESULT).is_file() for one in trials["trial_id"]):
        return None
    return Outcome(trials=trials, selections=selections, unselected={}, experiments=experiments)


def _is_exported(layout: Layout, selection: Mapping[str, Any]) -> bool:
    path = layout.models / selection["data"]["name"] / "model.json"
    try:
        trial_id = json.loads(path.read_text(encoding="utf-8"))["trial_id"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(trial_id == selection["figures"]["chosen"]["trial_id"])

"""Results of a sweep as tables: one row a trial, one row a model (mean and deviation over its seeds)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from ttl.errors import SearchError
from ttl.files import sha256
from ttl.training.runs import COMPLETED, FAILED, HISTORY_SCHEMA, STOPPED, Runs

if TYPE_CHECKING:
    from ttl.search.plan import Progress

TRIALS = "trials.parquet"
LEADERBOARD = "leaderboard.csv"
HISTORIES = "history.parquet"
SELECTION = "selection.json"
LEDGER = "ledger.csv"
PREDICTIONS, PLOTS = "predictions", "plots"
"""Folders of what `ttl.search.scored` leaves beside the tables."""

_METRICS = [
    "val_loss",
    "val_auroc",
    "val_auprc",
    "val_accuracy",
    "val_balanced_accuracy",
    "val_ece",
    "test_loss",
    "test_auroc",
    "test_auprc",
    "test_accuracy",
    "test_balanced_accuracy",
    "test_sensitivity",
    "test_specificity",
    "test_ece",
    "threshold",
]

TRIALS_SCHEMA = pl.Schema(
    [
        (name, pl.String())
        for name in ("trial_id", "dataset", "revision", "backbone", "source", "source_sha256")
    ]
    + [
        ("strategy", pl.String()),
        ("cut", pl.String()),
        ("cut_index", pl.Int64()),
        ("granularity", pl.String()),
    ]
    + [("seed", pl.Int64()), ("recipe", pl.String()), ("image_size", pl.Int64()), ("processes", pl.Int64())]
    + [("status", pl.String()), ("error", pl.String()), ("epochs", pl.Int64())]
    + [("train_seconds", pl.Float64()), ("train_macs", pl.Int64()), ("params", pl.Int64())]
    + [("macs", pl.Int64()), ("model_bytes", pl.Int64()), ("latency_ms", pl.Float64())]
    + [(name, pl.Float64()) for name in _METRICS]
    + [("device", pl.String())]
)

MODEL = [
    "dataset",
    "backbone",
    "source",
    "strategy",
    "cut",
    "cut_index",
    "granularity",
    "recipe",
    "image_size",
]
MODEL += ["processes"]
"""What makes a row of the leaderboard: a trial without its seed."""

LEDGER_SCHEMA = pl.Schema(
    {
        "dataset": pl.String,
        "backbone": pl.String,
        "source": pl.String,
        "strategy": pl.String,
        "cut": pl.String,
        "cut_index": pl.Int64,
        "granularity": pl.String,
        "trained": pl.String,
        "epochs": pl.Int64,
        "full_epochs": pl.Int64,
        "reason": pl.String,
    }
)
"""`trained` is `to the end` (every seed), `in part`, `failed` or `never`. `epochs` are those trained, over
all seeds, whoever asked for them, of `full_epochs` that the recipe allows."""

AVERAGED = [
    "val_loss",
    "val_auroc",
    "val_auprc",
    "val_accuracy",
    "test_auroc",
    "test_auprc",
    "test_accuracy",
    "test_balanced_accuracy",
    "test_ece",
]
COSTS = ["params", "macs", "model_bytes", "latency_ms", "train_seconds"]


def collect(progress: "Progress", runs: Runs) -> pl.DataFrame:
    """Return one row for each trial that a planner asked for, in its order, with `TRIALS_SCHEMA`."""
    rows = []
    for trial_id, trial in progress.trials.items():
        result, known = runs.result(trial_id) or {}, progress.known[trial_id]
        if known.status == STOPPED and result["status"] == COMPLETED:
            # An idle slot, or another sweep, trained it on: what counts is what this planner asked for.
            result = {name: result[name] for name in (*COSTS, "device") if name != "train_seconds"}
            result |= {"status": STOPPED, "epochs": len(known.curve), "val_auroc": known.best}
        values = {**result, **trial.to_dict(), "recipe": trial.recipe.name, "trial_id": trial_id}
        rows.append({name: values.get(name) for name in TRIALS_SCHEMA})
    return pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row")


def histories(trials: pl.DataFrame, runs: Runs) -> pl.DataFrame:
    """Return the epochs of all completed trials, with their `trial_id`."""
    done = trials.filter(pl.col("status") == COMPLETED)["trial_id"]
    empty = pl.DataFrame(schema={"trial_id": pl.String, **HISTORY_SCHEMA})
    return pl.concat(
        [empty]
        + [runs.history(one).select(pl.lit(one).alias("trial_id"), pl.all()) for one in done.to_list()]
    )


def leaderboard(trials: pl.DataFrame) -> pl.DataFrame:
    """Return one row a model, best mean validation AUROC first within each dataset.

    `seeds` counts completed trials, `failed` failed ones; `<metric>_mean` and `<metric>_std` are over seeds.
    """
    done = pl.col("status") == COMPLETED
    return (
        trials.group_by(MODEL, maintain_order=True)
        .agg(
            done.sum().cast(pl.Int64).alias("seeds"),
            (pl.col("status") == FAILED).sum().cast(pl.Int64).alias("failed"),
            *[pl.col(name).filter(done).mean().alias(name) for name in COSTS],
            *[pl.col(name).filter(done).mean().alias(f"{name}_mean") for name in AVERAGED],
            *[pl.col(name).filter(done).std().alias(f"{name}_std") for name in AVERAGED],
        )
        .with_columns(pl.col("params", "macs", "model_bytes").round().cast(pl.Int64))
        .sort(
            ["dataset", "val_auroc_mean", "params", *MODEL[1:]],
            descending=[False, True, *[False] * len(MODEL)],
            nulls_last=True,
        )
    )


def write(
    folder: Path,
    *,
    trials: pl.DataFrame,
    history: pl.DataFrame,
    entries: dict[str, Any],
    ledger: pl.DataFrame,
) -> None:
    """Write the files of a sweep's results, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
    for name, save in (
        (TRIALS, trials.write_parquet),
        (LEADERBOARD, leaderboard(trials).write_csv),
        (HISTORIES, history.write_parquet),
        (LEDGER, ledger.write_csv),
        (SELECTION, lambda path: cast("Path", path).write_text(text, encoding="utf-8")),
    ):
        aside = folder / f".{name}"
        save(aside)
        aside.replace(folder / name)


def read_trials(folder: Path) -> pl.DataFrame:
    """Return `trials.parquet` of the folder."""
    return _read(folder, TRIALS)


def read_history(folder: Path) -> pl.DataFrame:
    """Return `history.parquet` of the folder."""
    return _read(folder, HISTORIES)


def read_ledger(folder: Path) -> pl.DataFrame:
    """Return `ledger.csv` of the folder."""
    return pl.read_csv(_existing(folder, LEDGER), schema=LEDGER_SCHEMA)


def read_entries(folder: Path) -> dict[str, Any]:
    """Return `selection.json` of the folder: of each dataset its selection, or why there is none.

    Both have `data`, what is known of the dataset; one without a selection has `unselected`, the reason.
    """
    path = _existing(folder, SELECTION)
    return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))


def read_selections(folder: Path) -> dict[str, Any]:
    """Return the selections of the folder, by dataset."""
    return {name: one for name, one in read_entries(folder).items() if "unselected" not in one}


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each table in the folder, and of what lies beside them.

    Raises `OSError` if a table is not there.
    """
    tables = [folder / name for name in (TRIALS, LEADERBOARD, HISTORIES, LEDGER, SELECTION)]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in [*tables, *beside(folder)]}


def beside(folder: Path) -> list[Path]:
    """Return the files beside the tables: the predictions and the plots of each dataset."""
    return sorted([*(folder / PREDICTIONS).glob("*.parquet"), *(folder / PLOTS).glob("*/*.csv")])


def _read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(_existing(folder, name))


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise SearchError(f"{folder / name} does not exist; `ttl sweep` (or `dvc repro`) makes it")
    return folder / name

"""Results of a sweep as tables: one row a trial, one row a model (mean and deviation over its seeds)."""

import json
from collections.abc import Mapping, Sequence
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

ABLATIONS: dict[str, Any] = {"head": "pooled", "share": 1.0, "resplit": "none"}
"""Columns that say how a trial differs from the ordinary one, and what they say of that."""

FACTORS = ["backbone", "source", "recipe", *ABLATIONS]
"""Columns of which a table shows those that differ between its rows."""

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
    + [("head", pl.String()), ("share", pl.Float64()), ("resplit", pl.String())]
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
MODEL += ["processes", *ABLATIONS]
"""What makes a row of the leaderboard: a trial without its seed."""

CONDITION = [name for name in (*MODEL, "source_sha256") if name not in {
    "dataset", "backbone", "strategy", "cut", "cut_index", "granularity",
}]  # fmt: skip
"""Columns of trials that are alike where networks are held side by side: weights, recipe, image size,
processes, and ablations."""

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
        "recipe": pl.String,
        "head": pl.String,
        "share": pl.Float64,
        "resplit": pl.String,
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


def settled(trials: pl.DataFrame) -> pl.DataFrame:
    """Return trials with all columns of `TRIALS_SCHEMA`: a table of before the ablations had none of them."""
    filled = [
        pl.col(name).fill_null(value) if name in trials.columns else pl.lit(value).alias(name)
        for name, value in ABLATIONS.items()
    ]
    return trials.with_columns(filled)


def ordinary(trials: pl.DataFrame) -> pl.DataFrame:
    """Return the trials that a model may be released from: of all training data, on the dataset's own split.

    A model trained on a share is compared, not released; and networks of different splits are never compared
    with each other, nor with a test split that others have trained on.
    """
    return settled(trials).filter((pl.col("share") == 1.0) & (pl.col("resplit") == "none"))


def side_by_side(trials: pl.DataFrame, selected: str | None = None) -> pl.DataFrame:
    """Return the trials of one condition, on the dataset's own split: networks to be held beside each other.

    It is the condition of the `selected` trial, else that of the completed trial with the highest validation
    AUROC, of those of all training data if there are any.
    """
    known = settled(trials).filter(pl.col("resplit") == "none")
    done = known.filter(pl.col("status") == COMPLETED).sort(
        pl.col("trial_id").eq_missing(pl.lit(selected)),
        pl.col("share") == 1.0,
        "val_auroc",
        "trial_id",
        descending=[True, True, True, False],
        nulls_last=True,
    )
    if done.is_empty():
        return known
    first = done.row(0, named=True)
    return alike(known, first)


def alike(trials: pl.DataFrame, condition: Mapping[str, Any]) -> pl.DataFrame:
    """Return the trials of one condition, which a mapping gives under the names of `CONDITION`."""
    return settled(trials).filter(pl.col(name).eq_missing(pl.lit(condition[name])) for name in CONDITION)


def why_no_release(trials: pl.DataFrame) -> str:
    """Return why no model is selected of trials of which none is ordinary."""
    resplit = trials["resplit"].unique().to_list() != ["none"]
    return (
        "each seed has a split of its own: the methods are compared, and no model is chosen among networks "
        "that were validated on different images"
        if resplit
        else "all were trained on a share of the data: they are compared, and a model for use needs all of it"
    )


def check_known(trials: pl.DataFrame, column: str, wanted: Sequence[str] | None) -> None:
    """Raise `SearchError` for a name that is wanted, and that no trial has in this column."""
    known = sorted(trials[column].unique())
    for one in wanted or ():
        if one not in known:
            raise SearchError(
                f"the last sweep has no {column} {one!r} (it has: {', '.join(known)}); run `ttl sweep`"
            )


def factors(table: pl.DataFrame) -> list[str]:
    """Return the columns of `FACTORS` of which the table has more than one value."""
    return [name for name in FACTORS if name in table.columns and table[name].n_unique() > 1]


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
        if isinstance(values.get("threshold"), list):
            # One a label: they are in the trial's result, and in the selection.
            values["threshold"] = None
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
    table = settled(_read(folder, TRIALS))
    return table.select([name for name in TRIALS_SCHEMA if name in table.columns])


def read_history(folder: Path) -> pl.DataFrame:
    """Return `history.parquet` of the folder."""
    return _read(folder, HISTORIES)


def read_ledger(folder: Path) -> pl.DataFrame:
    """Return `ledger.csv` of the folder."""
    path = _existing(folder, LEDGER)
    known = pl.read_csv(path, n_rows=0).columns
    book = pl.read_csv(path, schema={name: kind for name, kind in LEDGER_SCHEMA.items() if name in known})
    # A ledger of before the ablations has none of their columns.
    return (
        settled(book)
        .with_columns(
            pl.lit(None, LEDGER_SCHEMA[name]).alias(name)
            for name in LEDGER_SCHEMA
            if name not in {*known, *ABLATIONS}
        )
        .select(LEDGER_SCHEMA.names())
    )


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

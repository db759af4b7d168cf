"""What the chosen network and the reference say of each image, beside a sweep's tables; and what DVC plots.

`results/predictions/<dataset>.parquet` has the predictions of the two networks that a selection compares at
the end: of each model, the seed that would be released. So the report needs no trial's folder. What
`dvc plots` shows lies in `results/plots/`, a folder a figure, a CSV a dataset.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ttl.evaluation.metrics import decide
from ttl.evaluation.reliability import reliability
from ttl.search.results import PLOTS, PREDICTIONS, beside, factors
from ttl.search.scores import Predictions
from ttl.training.runs import COMPLETED

ROLES = ("chosen", "reference")


def write(
    folder: Path,
    *,
    selections: Mapping[str, Any],
    predictions: Predictions,
    trials: pl.DataFrame,
    history: pl.DataFrame,
    kept: Sequence[str] = (),
) -> None:
    """Write the predictions and plots of a sweep's datasets; of others none are left but the `kept` ones'."""
    made: set[Path] = set()

    def place(path: Path, save: Callable[[Path], object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}")
        save(aside)
        made.add(aside.replace(path))

    for name in trials["dataset"].unique(maintain_order=True):
        mine = trials.filter(pl.col("dataset") == name)
        place(folder / PLOTS / "curves" / f"{name}.csv", curves(mine, history).write_csv)
        place(folder / PLOTS / "trade-off" / f"{name}.csv", trade_off(mine).write_csv)
    for name, selection in selections.items():
        table = scored(selection, predictions)
        place(folder / PREDICTIONS / f"{name}.parquet", table.write_parquet)
        if selection["data"]["task"] == "multilabel":
            # An image has several classes there, and neither figure one answer: the report has them by label.
            continue
        figures, classes = selection["figures"]["chosen"], selection["data"]["classes"]
        test = table.filter((pl.col("trial_id") == figures["trial_id"]) & (pl.col("split") == "test"))
        answers = confusion(test, classes, figures["threshold"])
        place(folder / PLOTS / "confusion" / f"{name}.csv", answers.write_csv)
        place(folder / PLOTS / "calibration" / f"{name}.csv", calibration(test).write_csv)
    for path in beside(folder):
        if path not in made and path.stem not in kept:
            path.unlink()


def scored(selection: Mapping[str, Any], predictions: Predictions) -> pl.DataFrame:
    """Return the predictions of the chosen network and the reference, with their `trial_id`.

    Where both are one network, its predictions stand once.
    """
    ids = dict.fromkeys(selection["figures"][role]["trial_id"] for role in ROLES)
    return pl.concat([predictions(one).select(pl.lit(one).alias("trial_id"), pl.all()) for one in ids])


def curves(trials: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each epoch of each completed trial."""
    return (
        history.join(_named(trials), on="trial_id", maintain_order="left")
        .filter(pl.col("val_auroc").is_finite())
        .select("model", "strategy", "cut", "seed", "epoch", "train_loss", "val_loss", "val_auroc")
    )


def trade_off(trials: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each model that was completed: its parameters, and means over its seeds."""
    return (
        _named(trials)
        .filter(pl.col("val_auroc").is_finite())
        .group_by("model", "strategy", "cut", maintain_order=True)
        .agg(
            pl.col("params").mean().round().cast(pl.Int64),
            pl.col("macs").mean().round().cast(pl.Int64),
            pl.col("val_auroc").mean(),
            pl.col("test_auroc").mean(),
            pl.len().alias("seeds"),
        )
        .sort("params", "model")
    )


def confusion(test: pl.DataFrame, classes: Sequence[str], threshold: float | None) -> pl.DataFrame:
    """Return the actual and the predicted class of each image, at the threshold chosen on validation data."""
    predicted = decide(_probabilities(test), threshold)
    names = np.array(classes)
    return pl.DataFrame({"actual": names[test["label"].to_numpy()], "predicted": names[predicted]})


def calibration(test: pl.DataFrame) -> pl.DataFrame:
    """Return what was predicted and what was found, a row for each bin that has images."""
    bins = reliability(test["label"].to_numpy(), _probabilities(test))
    return pl.DataFrame(
        [
            {"predicted": one.predicted, "found": one.found, "images": one.images}
            for one in bins
            if one.images
        ],
        schema={"predicted": pl.Float64, "found": pl.Float64, "images": pl.Int64},
    )


def _named(trials: pl.DataFrame) -> pl.DataFrame:
    """Return the completed trials and the name of each one's `model`, with the factors that differ."""
    done = trials.filter(pl.col("status") == COMPLETED)
    differ, names = factors(done), []
    for row in done.iter_rows(named=True):
        values = [(name, row[name]) for name in differ]
        words = [f"{name} {value:g}" if isinstance(value, float) else str(value) for name, value in values]
        cut = [] if row["strategy"] == "ftl" else [row["cut"]]
        names.append(" ".join([*words, row["strategy"], *cut]))
    return done.with_columns(pl.Series("model", names, dtype=pl.String))


def _probabilities(table: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(table["scores"].to_list(), dtype=np.float64)

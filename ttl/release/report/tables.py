"""Tables of trials as the figures need them: models and their names, means over seeds, the order of cuts.

`trials` has the columns of `results/trials.parquet`, of one dataset; trials that are not completed, or lack
the metric, are left out. A model is known by the values of `KEYS`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from ttl.search import results

Model = tuple[Any, ...]
"""The values of `KEYS`."""

KEYS = ["backbone", "source", "strategy", "cut", "recipe", *results.ABLATIONS]
NAMES = {"val_auroc": "validation AUROC", "test_auroc": "test AUROC"}
ORDER = ("ftl", "ttl", "tf", "lwft")


def model_of(values: Mapping[str, Any]) -> Model:
    """Return what the figures know a model by."""
    known = {**results.ABLATIONS, **values}
    return tuple(known[name] for name in KEYS)


def told(factor: str, value: Any) -> str:
    """Return a factor's value in words that say what it is of."""
    return f"{factor} {value:g}" if isinstance(value, float) else str(value)


def values_of(row: Mapping[str, Any], factors: Sequence[str]) -> list[str]:
    """Return a row's values of some factors, for a table that has their names above."""
    return [f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in factors]


def name_of(model: Model, *, among: Collection[Model] = ()) -> str:
    """Return a model's short name, with the factors of which `among` has several values."""
    known = dict(zip(KEYS, model, strict=True))
    short = known["strategy"] if known["strategy"] == "ftl" else f"{known['strategy']} {known['cut']}"
    more = [
        told(name, known[name])
        for place, name in enumerate(KEYS)
        if name in results.FACTORS and len({other[place] for other in among}) > 1
    ]
    return f"{short} ({', '.join(more)})" if more else short


def strategies_of(trials: pl.DataFrame) -> list[str]:
    """Return the strategies in the order in which they are shown: the reference first."""
    found = set(trials["strategy"].to_list())
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def means(trials: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Return one row a model: `mean`, `deviation` (null for one seed), `seeds` and `params`; by params."""
    usable = trials.filter((pl.col("status") == "completed") & pl.col(metric).is_finite())
    return (
        usable.group_by(KEYS)
        .agg(
            pl.col(metric).mean().alias("mean"),
            pl.col(metric).std().alias("deviation"),
            pl.len().alias("seeds"),
            pl.col("params").cast(pl.Float64).mean().alias("params"),
        )
        .sort("params", *KEYS)
    )


def cut_order(trials: pl.DataFrame) -> list[str]:
    """Return the names of the cuts from the bottom of the network to its top.

    `cut_index` counts the cuts of one granularity. Where stage and block cuts meet, the parameters of the
    truncated (or else slimmed) networks, which grow with the cut, put them in one order.
    """
    cuts = trials.filter(pl.col("strategy") != "ftl")
    if cuts["granularity"].n_unique() > 1:
        for strategy in ("ttl", "tf"):
            sized = cuts.filter((pl.col("strategy") == strategy) & pl.col("params").is_not_null())
            if set(sized["cut"].to_list()) == set(cuts["cut"].to_list()):
                return _first_seen(sized.sort("params", "granularity", "cut_index"))
    return _first_seen(cuts.sort("granularity", "cut_index", descending=[True, False]))


def _first_seen(table: pl.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["cut"].to_list()))

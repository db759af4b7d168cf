"""The paper's headline table on the page: `ttl paper`'s, for each backbone and condition of a dataset."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from ttl.release.paper import Printed, printed
from ttl.search.headline import conditions, headline
from ttl.search.scores import Predictions


def headlines(
    trials: pl.DataFrame,
    ledger: pl.DataFrame,
    predictions: Predictions,
    *,
    dataset: str,
    entry: Mapping[str, Any],
) -> list[Printed]:
    """Return the tables, ready to print: what is missing is said in each. `entry` is of `selection.json`."""
    return [
        printed(
            headline(
                trials,
                ledger,
                predictions,
                dataset=dataset,
                backbone=backbone,
                condition=condition,
                entry=entry,
            ),
            dataset=dataset,
            backbone=backbone,
            condition=condition,
            synthetic=entry["data"]["synthetic"],
        )
        for backbone in trials["backbone"].unique(maintain_order=True)
        for condition in conditions(trials, dataset=dataset, backbone=backbone)
    ]

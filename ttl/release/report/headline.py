"""The paper's headline table on the page: `ttl paper`'s, for each backbone and condition of a dataset."""

from collections.abc import Callable
from typing import Any

import polars as pl

from ttl.errors import SearchError
from ttl.release.paper import printed
from ttl.search.headline import conditions, headline

Predictions = Callable[[str], pl.DataFrame]


def headlines(
    trials: pl.DataFrame, ledger: pl.DataFrame, predictions: Predictions, *, dataset: str, synthetic: bool
) -> list[Any] | str:
    """Return the tables, ready to print, or why there are none."""
    try:
        return [
            printed(
                headline(
                    trials, ledger, predictions, dataset=dataset, backbone=backbone, condition=condition
                ),
                dataset=dataset,
                backbone=backbone,
                condition=condition,
                synthetic=synthetic,
            )
            for backbone in trials["backbone"].unique(maintain_order=True)
            for condition in conditions(trials, dataset=dataset, backbone=backbone)
        ]
    except FileNotFoundError:
        return (
            "The predictions of all trials are needed for it, and runs/ is not here: `ttl sweep` brings them."
        )
    except SearchError as error:
        return f"There is none: {error}."

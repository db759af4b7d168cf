"""The whole networks that the last sweep finetuned, and the truncated ones to hold beside them."""

from typing import Any

import polars as pl

from ttl.data.dataset import PackedDataset
from ttl.errors import SearchError
from ttl.evaluation.activations import Layer
from ttl.models.backbones import weights_sha256
from ttl.release.similarity import METRICS
from ttl.search.results import MODEL, settled, side_by_side
from ttl.training.runs import COMPLETED, Runs
from ttl.training.trial import Trial

SAME = [key for key in MODEL if key not in {"dataset", "strategy", "cut", "cut_index", "granularity"}]
"""What networks share with a finetuned one when they may be held beside it."""


def best_whole(trials: pl.DataFrame, backbone: str) -> dict[str, Any]:
    """Return the row of the backbone's completed FTL trial with the best validation AUROC.

    It is of the condition that `side_by_side` chooses. Raises `SearchError` if there is none.
    """
    mine = trials.filter(pl.col("backbone") == backbone)
    if mine.is_empty():
        known = ", ".join(sorted(trials["backbone"].unique())) or "none"
        raise SearchError(f"the last sweep trained no {backbone} (it has: {known}); `ttl sweep` trains it")
    asked = settled(mine.filter(pl.col("strategy") == "ftl"))
    whole = side_by_side(asked)
    done = whole.filter((pl.col("status") == COMPLETED) & pl.col("val_auroc").is_finite())
    if done.is_empty() and (asked["resplit"] != "none").any():
        raise SearchError(
            f"the last sweep has no completed FTL trial of {backbone} on the dataset's own split: with "
            "`--resplit` each seed divides the samples anew, and the networks were trained on most of these "
            "validation images; run `ttl sweep --strategy ftl --strategy ttl` without `--resplit` (with "
            "`--resplit none` where params.yaml sets it)"
        )
    if done.is_empty():
        states = ", ".join(whole["status"].unique().sort()) or "not in it"
        raise SearchError(
            f"the last sweep has no completed FTL trial of {backbone} (they are: {states}); features before "
            "and after finetuning are those of the whole network: `ttl sweep --strategy ftl --strategy ttl` "
            "trains it"
        )
    return done.sort("val_auroc", "trial_id", descending=[True, False]).row(0, named=True)


def beside(trials: pl.DataFrame, row: dict[str, Any]) -> pl.DataFrame:
    """Return the trials that may be held beside the finetuned one of this row, which is one of them."""
    return settled(trials).filter(pl.col(key).eq_missing(pl.lit(row[key])) for key in SAME)


def network_there(networks: pl.DataFrame, layer: Layer) -> dict[str, Any] | None:
    """Return the figures of the TTL networks cut at a layer, means over seeds; None if none is completed.

    Where a network cut there would be the whole network, the FTL trials are meant.
    """
    there = (pl.col("strategy") == "ttl") & pl.col("cut").is_in(list(layer.cuts))
    if layer.whole:
        there |= pl.col("strategy") == "ftl"
    return figures(networks.filter(there))


def read_trial(row: dict[str, Any], runs: Runs, dataset: PackedDataset) -> Trial:
    """Return the trial of a table's row, once its data, its code and its source's weights are today's."""
    if row["revision"] != dataset.revision:
        raise SearchError(
            f"the last sweep was on {dataset.info.name} of revision {row['revision']}, and "
            f"{dataset.root} is now at {dataset.revision}; run `ttl sweep` again"
        )
    folder = runs.folder(row["trial_id"])
    if not folder.is_dir():
        raise SearchError(
            f"{folder} does not exist, and the last sweep's tables name it; run `ttl sweep` again"
        )
    trial = runs.trial(row["trial_id"])
    if trial.trial_id != row["trial_id"]:
        raise SearchError(f"trial {row['trial_id']} was trained by other code; run `ttl sweep` again")
    found = weights_sha256(trial.backbone, trial.source)
    if found != trial.source_sha256:
        raise SearchError(
            f"the weights {trial.source} of {trial.backbone} (SHA-256 {found[:12]}) are not those that trial "
            f"{trial.trial_id} started from ({trial.source_sha256[:12]}); bring those back, or run "
            "`ttl sweep` again"
        )
    return trial


def figures(trials: pl.DataFrame) -> dict[str, Any] | None:
    """Return mean and deviation over seeds of the completed trials' metrics; None if there are none."""
    done = trials.filter(pl.col("status") == COMPLETED).unique("trial_id", maintain_order=True)
    if done.is_empty():
        return None
    # A stage's end may have been trained under both of its names: a mean over seeds, not over names.
    seeds = done.group_by("seed").agg(pl.col(name).mean() for name in METRICS).sort("seed")
    spread = {name: {"mean": seeds[name].mean(), "deviation": seeds[name].std()} for name in METRICS}
    return {**spread, "seeds": seeds.height, "trial_ids": done["trial_id"].to_list()}

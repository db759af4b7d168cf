"""On which samples a trial is trained, validated and tested: the dataset's split, or what is drawn of it."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.data.dataset import SPLITS, PackedDataset
from ttl.data.draws import nested_share, redraw
from ttl.data.splits import check_classes
from ttl.errors import TrialError
from ttl.training.trial import Resplit, Trial

REDRAWN: Mapping[Resplit, tuple[str, ...]] = {"none": (), "val": ("train", "val"), "all": SPLITS}
"""The splits whose samples are divided anew."""


def divide(trial: Trial, dataset: PackedDataset) -> dict[str, NDArray[np.int64]]:
    """Return the row numbers of each split's samples, by their ids.

    With `resplit`, the trial's seed draws the split: all seeds of a sweep have one each, alike for all
    models. With a `share`, validation and test stay whole. Raises `TrialError` where a published test split
    would be drawn anew.
    """
    if trial.resplit == "none" and trial.share == 1:
        return {split: dataset.indices(split) for split in SPLITS}
    check_resplit(trial.resplit, dataset)
    table = dataset.samples.with_row_index("position").sort("sample_id")
    table = table.filter(pl.col("split").is_in(SPLITS))
    rows = table["position"].to_numpy().astype(np.int64)
    labels, names = dataset.labels[rows], np.array(table["split"].to_list())
    patients, classes = table["patient_id"].to_list(), dataset.info.classes
    drawn = np.isin(names, REDRAWN[trial.resplit])
    if drawn.any():
        names[drawn] = redraw(
            labels[drawn],
            [patient for patient, wanted in zip(patients, drawn, strict=True) if wanted],
            table["sha256"].filter(pl.Series(drawn)).to_list(),
            names[drawn].tolist(),
            classes=classes,
            seed=trial.seed,
        )
        check_classes(labels, names.tolist(), classes=classes)
    found = {split: rows[names == split] for split in SPLITS}
    if trial.share < 1:
        train = names == "train"
        kept = nested_share(
            labels[train],
            [patient for patient, wanted in zip(patients, train, strict=True) if wanted],
            classes=len(classes),
            share=trial.share,
            seed=trial.seed,
        )
        found["train"] = found["train"][kept]
    return found


def check_resplit(resplit: Resplit, dataset: PackedDataset) -> None:
    """Raise `TrialError` where a published, or frozen, test split would be drawn anew, or made-up labels.

    Made up are uncertain labels of training images, by the policy: on another side, figures would rest on
    them.
    """
    info = dataset.info
    if resplit == "all" and info.given_split:
        raise TrialError(
            f"{info.name} has a test split of its own, which is kept: figures of another could not "
            "be compared with anybody's; take resplit val, which divides training and validation anew. (Of a "
            "dataset packed by an earlier version it is not known: `ttl data prepare` first)"
        )
    if resplit != "none" and info.task == "multilabel" and info.uncertain != "ignore":
        reason = (
            "does not say whether uncertain labels were made up, for an earlier version packed it: "
            f"`ttl data prepare {info.name}` first"
            if info.uncertain is None
            else f"has uncertain labels that `uncertain: {info.uncertain}` made up for training; drawn anew, "
            "some would stand in validation or test, and figures would rest on them: prepare it with "
            "`options.uncertain: ignore`"
        )
        raise TrialError(f"resplit is {resplit}, and {info.name} {reason}")

"""A drop as the champion sees it: whether its images have drifted from those the model was judged on."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ttl.data.dataset import PackedDataset
from ttl.data.transforms import prepare
from ttl.errors import DataError
from ttl.evaluation.appearance import pixel_statistics
from ttl.evaluation.drift import DriftReport, Observed, assess, calibrate
from ttl.intake.append import received, taken
from ttl.release.description import WEIGHTS, read_description
from ttl.release.predict import rebuild

BATCH = 64

HELD_BACK = ("val", "test", "rolling")
"""Splits that no model was trained on: what one makes of its training images is no measure of others."""


def drift_of(dataset: PackedDataset, drop: str, model: Path | None, *, alpha: float = 0.05) -> DriftReport:
    """Return how a drop, `<site>/<drop>`, compares with what the site had sent before.

    The views are statistics of the pixels and, with a model's folder, its pooled features at its cut and its
    logits. The reference are the site's images of earlier drops that no model was trained on. Raises
    `DataError` where these are of too few patients to tell, and for a drop of one patient.
    """
    site = drop.partition("/")[0]
    came = received(dataset.root)
    samples = dataset.samples.with_row_index("position").join(came, on="sample_id", how="left")
    mine = samples.filter(pl.col("drop") == drop)
    if mine.is_empty():
        raise DataError(f"none of the images of {drop} was accepted: there is nothing to compare")
    since = mine["received_at"][0]
    # What a model makes of patients whom it was trained on is no measure of new ones.
    trained_on = samples.filter(
        pl.col("split") == "train", pl.col("received_at").is_null() | (pl.col("received_at") < since)
    )["patient_id"].unique()
    mine = mine.filter(~pl.col("patient_id").is_in(trained_on.to_list()))
    if mine.is_empty():
        raise DataError(f"all patients of {drop} were there before: there is nothing to compare")
    before = samples.filter(
        pl.col("site") == site,
        pl.col("split").is_in(HELD_BACK),
        pl.col("received_at").is_null() | (pl.col("received_at") < since),
        # A patient on both sides is no other patient.
        ~pl.col("patient_id").is_in(mine["patient_id"].unique().to_list()),
    )
    if before.is_empty():
        raise DataError(f"{site} has sent nothing before {drop} that no model was trained on")
    reference, arrived = (observe(dataset, rows, model) for rows in (before, mine))
    return assess(reference, arrived, calibrate(reference, arrived.films, alpha=alpha))


def observe(dataset: PackedDataset, rows: pl.DataFrame, model: Path | None) -> Observed:
    """Return samples as the numbers that are compared; `rows` have `position` and `patient_id`."""
    places = rows["position"].to_numpy().astype(np.int64)
    views: dict[str, list[NDArray[np.float64]]] = {}
    eye = None if model is None else _Eye(model)
    for start in range(0, len(places), BATCH):
        pixels = dataset.read(places[start : start + BATCH])
        found = {"pixels": pixel_statistics(pixels)} | (eye.see(pixels) if eye else {})
        for name, values in found.items():
            views.setdefault(name, []).append(values)
    return Observed(
        {name: np.concatenate(parts) for name, parts in views.items()}, rows["patient_id"].to_list()
    )


def drops_since(dataset: PackedDataset, known: Collection[str]) -> list[str]:
    """Return the drops, `<site>/<drop>`, that brought images, and whose digests are not among the known."""
    return [
        f"{one.site}/{one.drop}" for one in taken(dataset.root) if one.accepted and one.digest not in known
    ]


class _Eye:
    """A model's pooled features at its cut, and its logits."""

    def __init__(self, folder: Path) -> None:
        self.known = read_description(folder)
        self.network: Any = rebuild(self.known, folder / WEIGHTS)

    def see(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """Return the views of packed images, uint8 [n, c, h, w]."""
        known = self.known
        images = prepare(torch.from_numpy(pixels), image_size=known.image_size, steps=known.steps)
        with torch.inference_mode():
            features = self.network.forward_features(images.contiguous())
            pooled = self.network.forward_head(features, pre_logits=True)
            logits = self.network.forward_head(features)
        return {
            "features": pooled.double().numpy().reshape(len(pixels), -1),
            "outputs": logits.double().numpy(),
        }

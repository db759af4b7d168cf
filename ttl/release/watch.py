"""Drops as the champion sees them: whether their images have drifted from those the model was judged on."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ttl.data.dataset import PackedDataset
from ttl.data.transforms import prepare
from ttl.errors import TooFewError
from ttl.evaluation.appearance import pixel_statistics
from ttl.evaluation.drift import DriftReport, Observed, assess, calibrate
from ttl.intake.received import Taken, received, taken
from ttl.release.description import WEIGHTS, read_description
from ttl.release.predict import rebuild

BATCH = 64

MOST_IMAGES = 4000
"""So many images of a drop, and of what came before it, are compared: memory grows with their square."""

HELD_BACK = ("val", "test", "rolling")
"""Splits that no model was trained on: what one makes of its training images is no measure of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A drop, and how it compares with what its site had sent before, or why that cannot be told.

    `title` is the drop's name for people, different from that of every other drop of the dataset.
    """

    drop: Taken
    title: str
    found: DriftReport | str

    @property
    def changed(self) -> bool:
        """Whether its images may be such as the site has not sent before: what cannot be told, may."""
        return isinstance(self.found, str) or self.found.drifted

    @property
    def why(self) -> str:
        """What is known of the change, in words."""
        if isinstance(self.found, str):
            return f"whether its images have drifted cannot be told: {self.found}"
        return "its images differ from what its site had sent before (drift)"


def watch(dataset: PackedDataset, drops: Sequence[Taken], model: Path | None) -> list[Watched]:
    """Return how each drop that brought images compares with what its site had sent before it.

    Raises `DataError` for images, or a model, that cannot be used.
    """
    titles = _titles(taken(dataset.root))
    found = []
    for drop in drops:
        if not drop.accepted:
            continue
        try:
            report: DriftReport | str = drift_of(dataset, drop, model)
        except TooFewError as error:
            report = str(error)
        found.append(Watched(drop=drop, title=titles[drop.digest], found=report))
    return found


def drift_of(dataset: PackedDataset, drop: Taken, model: Path | None, *, alpha: float = 0.05) -> DriftReport:
    """Return how a drop compares with what its site had sent before.

    The views are statistics of the pixels and, with a model's folder, its pooled features at its cut and its
    logits. The reference are the site's images of earlier drops that no model was trained on. Of both at most
    `MOST_IMAGES` are looked at, of whole patients. Raises `TooFewError` where the reference is of too few
    patients to tell, and for a drop of one patient.
    """
    site = drop.site
    came = received(dataset.root)
    samples = dataset.samples.with_row_index("position").join(came, on="sample_id", how="left")
    mine = samples.filter(pl.col("digest") == drop.digest)
    if mine.is_empty():
        raise TooFewError("none of its images was accepted: there is nothing to compare")
    since = drop.received_at
    # What a model makes of patients whom it was trained on is no measure of new ones.
    trained_on = samples.filter(
        pl.col("split") == "train", pl.col("received_at").is_null() | (pl.col("received_at") < since)
    )["patient_id"].unique()
    mine = mine.filter(~pl.col("patient_id").is_in(trained_on.to_list()))
    if mine.is_empty():
        raise TooFewError("all its patients were there before: there is nothing to compare")
    before = samples.filter(
        pl.col("site") == site,
        pl.col("split").is_in(HELD_BACK),
        pl.col("received_at").is_null() | (pl.col("received_at") < since),
        # A patient on both sides is no other patient.
        ~pl.col("patient_id").is_in(mine["patient_id"].unique().to_list()),
    )
    if before.is_empty():
        raise TooFewError(f"{site} had sent nothing before, or all of it was trained on")
    reference, arrived = (observe(dataset, _at_most(rows), model) for rows in (before, mine))
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


def drops_since(dataset: PackedDataset, known: Collection[str]) -> list[Taken]:
    """Return the drops that brought images, and whose digests are not among the known."""
    return [one for one in taken(dataset.root) if one.accepted and one.digest not in known]


def _titles(drops: Sequence[Taken]) -> dict[str, str]:
    """Return names by digest; a site may use a folder's name again."""
    names = Counter((one.site, one.drop) for one in drops)
    return {
        one.digest: f"{one.site}/{one.drop}"
        + (f" of {one.received_at:%Y-%m-%d %H:%M}, {one.digest[:8]}" if names[one.site, one.drop] > 1 else "")
        for one in drops
    }


def _at_most(rows: pl.DataFrame, images: int = MOST_IMAGES) -> pl.DataFrame:
    """Return the rows of whole patients, drawn always alike, that have no more images than that together."""
    if len(rows) <= images:
        return rows
    patients = rows.group_by("patient_id").len().sort("patient_id").sample(fraction=1, shuffle=True, seed=0)
    drawn = patients.filter(pl.col("len").cum_sum() <= images)["patient_id"]
    return rows.filter(pl.col("patient_id").is_in(drawn.to_list()))


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

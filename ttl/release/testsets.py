"""The gate's test sets: what champion and challenger say of the frozen and of the rolling patients."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.data.dataset import PackedDataset
from ttl.errors import ReleaseError
from ttl.evaluation.metrics import Probabilities
from ttl.intake.received import ROLLING, Taken, received
from ttl.release.head_to_head import HeadToHead, TestName
from ttl.release.predict import LoadedModel, load_model

BATCH = 256

SPLIT_OF: dict[TestName, str] = {"frozen": "test", "rolling": ROLLING}


def score_tests(
    dataset: PackedDataset, challenger: Path, champion: Path | None
) -> dict[TestName, HeadToHead]:
    """Return the test sets that the dataset has, scored by the models in two folders.

    Each model prepares the images as it was trained to. Raises `ReleaseError` for models that do not know the
    dataset's classes, or its images.
    """
    models = [load_model(folder) for folder in (challenger, champion) if folder is not None]
    for model in models:
        _check(model, dataset)
    found: dict[TestName, HeadToHead] = {}
    for name, split in SPLIT_OF.items():
        rows = dataset.indices(split)
        if not len(rows):
            continue
        samples = dataset.samples[rows]
        scores = [_probabilities(model, dataset, rows) for model in models]
        found[name] = HeadToHead(
            labels=dataset.labels[rows],
            patients=samples["patient_id"].to_numpy().astype(np.str_),
            groups={
                "site": samples["site"].fill_null("").to_numpy().astype(np.str_),
                "year": samples["acquired_at"]
                .dt.year()
                .cast(pl.String)
                .fill_null("")
                .to_numpy()
                .astype(np.str_),
            },
            challenger=scores[0],
            threshold=models[0].threshold,
            champion=scores[1] if champion is not None else None,
            champion_threshold=models[1].threshold if champion is not None else None,
        )
    return found


def rolling_since(dataset: PackedDataset, drop: Taken) -> NDArray[np.bool_]:
    """Return which images of the rolling test set came from a drop's site with it, or after it: [n]."""
    came = received(dataset.root)
    rows = dataset.samples[dataset.indices(ROLLING)].join(
        came, on="sample_id", how="left", maintain_order="left"
    )
    moment = pl.lit(drop.received_at, came.schema["received_at"])
    since = (pl.col("site") == drop.site) & (pl.col("received_at") >= moment)
    return rows.select(since.fill_null(value=False)).to_series().to_numpy()


def _probabilities(model: LoadedModel, dataset: PackedDataset, rows: NDArray[np.int64]) -> Probabilities:
    starts = range(0, len(rows), BATCH)
    found = np.concatenate([model.probabilities(dataset.read(rows[at : at + BATCH])) for at in starts])
    # Metrics by rank would take what is no number for the lowest score.
    lost = int((~np.isfinite(found)).any(axis=1).sum())
    if lost:
        raise ReleaseError(
            f"the model in {model.folder} gives {lost} of {len(rows)} test images no finite probability: it "
            "cannot be judged; train it anew"
        )
    return found


def _check(model: LoadedModel, dataset: PackedDataset) -> None:
    known, info = model.description, dataset.info
    shape = (known.channels, *known.packed_size)
    if (known.task, known.classes, shape) != (info.task, info.classes, info.shape):
        raise ReleaseError(
            f"the model in {model.folder} tells {', '.join(known.classes)} apart ({known.task}) in images "
            f"{shape}, and {info.name} has {', '.join(info.classes)} ({info.task}) and {info.shape}: they "
            "cannot be compared"
        )

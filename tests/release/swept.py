"""What a sweep leaves, made up: tables of four models, predictions of two, and packed films."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ttl.data.dataset import PackedDataset
from ttl.data.pack import pack
from ttl.data.sources.base import Contents, Sample
from ttl.layout import Layout
from ttl.search import results, scored
from ttl.search.results import LEDGER_SCHEMA, TRIALS_SCHEMA
from ttl.training.runs import HISTORY_SCHEMA, PREDICTIONS_SCHEMA

NAME, CLASSES = "films", ("normal", "<ill>")
SPLITS = {"train": 6, "val": 6, "test": 60}
"""Films of each split, two a patient."""

MODELS = {("ftl", "full", -1): 1000, ("ttl", "a.0", 0): 10, ("ttl", "a.1", 1): 100, ("tf", "a.0", 0): 500}


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is to be left: how many seeds, whether tf failed, whether a model was selected, ..."""

    seeds: int = 1
    failed: bool = False
    selected: bool = True
    raced: bool = False
    synthetic: bool = True
    packed: bool = False
    depth: int = 0
    classes: tuple[str, ...] = CLASSES


def leave(root: Path, left: Left = Left()) -> Layout:
    """Leave it in a project's folder, which may have another already."""
    layout = Layout(root=root)
    trials, history = _trials(left)
    revision = pack_films(layout.datasets / NAME, left).revision if left.packed else "r"
    entry = _selection(left, revision)
    of, ordinary = (NAME, "net", "imagenet", "ttl"), ("fast", "pooled", 1.0, "none")
    ledger = [(*of, "a.1", 1, "stage", "to the end", 3 * left.seeds, 3 * left.seeds, "as good", *ordinary)]
    if left.raced:
        ledger.append((*of, "a.2", 2, "stage", "never", 0, 3 * left.seeds, "larger than <a.1>", *ordinary))
    selected = {NAME: entry} if left.selected else {}
    without = {NAME: {"unselected": "the network burnt", "data": entry["data"]}}
    results.write(
        layout.results,
        trials=trials,
        history=history,
        entries=selected or without,
        ledger=pl.DataFrame(ledger, schema=LEDGER_SCHEMA, orient="row"),
    )
    scored.write(
        layout.results,
        selections=selected,
        predictions=lambda trial_id: predictions(trial_id, left),
        trials=trials,
        history=history,
    )
    return layout


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def predictions(trial_id: str, left: Left = Left()) -> pl.DataFrame:
    """Return scores that rise with the label; the whole network's are noisier, and film 0 fools both."""
    rng = np.random.default_rng(1)
    count, classes = SPLITS["test"], len(left.classes)
    labels = labels_of(count, classes)
    noise = 0.5 if trial_id.startswith("ttl") else 0.8
    logits = np.eye(classes)[labels] + rng.normal(0, noise, (count, classes))
    logits[0] = 6.0 * np.eye(classes)[(labels[0] + 1) % classes]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pl.DataFrame(
        {
            "sample_id": [f"test-{number:03d}" for number in range(count)],
            "patient_id": [f"p-test-{number // 2}" for number in range(count)],
            "split": ["test"] * count,
            "label": labels,
            "scores": scores.tolist(),
        },
        schema=PREDICTIONS_SCHEMA,
    )


def labels_of(count: int, classes: int) -> np.ndarray:
    """Return the labels of so many films: patients take turns."""
    return np.arange(count) // 2 % classes


def pack_films(folder: Path, left: Left) -> PackedDataset:
    """Pack films of 20 × 12 pixels, or volumes of so many slices; a third of the test films are of site 1."""
    shape = (1, left.depth, 20, 12) if left.depth else (1, 20, 12)
    contents = Contents(
        task="binary" if len(left.classes) == 2 else "multiclass",
        classes=left.classes,
        shape=shape,
        licence="CC0",
        source="made",
        samples=_samples(shape, len(left.classes)),
        given_split=True,
        synthetic=left.synthetic,
    )
    return pack(NAME, contents, folder, fractions={}, seed=0)


def _samples(shape: tuple[int, ...], classes: int) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for number, label in enumerate(labels_of(count, classes)):
            yield Sample(
                sample_id=f"{split}-{number:03d}",
                pixels=rng.integers(0, 256, shape, dtype=np.uint8),
                label=int(label),
                patient_id=f"p-{split}-{number // 2}",
                site="big <site>" if number < 40 else "small",
                acquired_at=datetime.date(2020, 5, 1),
                split=split,
            )


def _trials(left: Left) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows, history = [], []
    for (strategy, cut, index), params in MODELS.items():
        for seed in range(left.seeds):
            name, lost = f"{strategy}-{cut}-{seed}", left.failed and strategy == "tf"
            row: dict[str, Any] = dict.fromkeys(TRIALS_SCHEMA)
            row |= {
                "trial_id": name, "dataset": NAME, "backbone": "net", "source": "imagenet", "seed": seed,
                "source_sha256": "", "strategy": strategy, "cut": cut, "cut_index": index, "recipe": "fast",
                "granularity": "stage", "image_size": 32, "processes": 1, **results.ABLATIONS,
                "status": "failed" if lost else "completed", "error": "<the loss is nan>" if lost else None,
            }  # fmt: skip
            if not lost:
                value = 0.9 + 0.01 * seed + params / 1e5
                row |= {name: value for name in TRIALS_SCHEMA if name.startswith(("val_", "test_"))}
                row |= {"params": params, "macs": params, "model_bytes": 4 * params, "latency_ms": 1.0}
                row |= {"train_seconds": 5.0, "epochs": 3}
                history += [(name, epoch, 1e-3, 0.5, 0.5, 0.7 + epoch / 10, 1.0) for epoch in range(1, 4)]
            rows.append(row)
    schema = {"trial_id": pl.String, **HISTORY_SCHEMA}
    return (
        pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row"),
        pl.DataFrame(history, schema=schema, orient="row"),
    )


def _selection(left: Left, revision: str) -> dict[str, Any]:
    chosen = {
        "backbone": "net", "source": "imagenet", "strategy": "ttl", "cut": "a.1", "recipe": "fast",
        "image_size": 32, "processes": 1, "params": 100, "macs": 100, "model_bytes": 400, "latency_ms": 1.0,
        "seeds": list(range(left.seeds)), "trial_ids": ["ttl-a.1-0"], "val_auroc": interval(0.911),
        "test_auroc": interval(0.822),
    }  # fmt: skip
    whole = {**chosen, "strategy": "ftl", "cut": "full", "params": 1000, "trial_ids": ["ftl-full-0"]}
    small = {**chosen, "cut": "a.0", "params": 10, "trial_ids": ["ttl-a.0-0"]}
    difference = {"difference": interval(-0.001), "non_inferior": True}
    threshold = 0.5 if len(left.classes) == 2 else None
    return {
        "rule": {"margin": 0.01, "confidence": 0.95, "resamples": 200, "patients": 10},
        "data": {
            "name": NAME, "classes": list(left.classes), "counts": {"train": dict.fromkeys(left.classes, 2)},
            "patients": {"train": 2}, "synthetic": left.synthetic, "notes": ["3 images leak"],
            "licence": "CC0", "source": "made", "revision": revision,
            "task": "binary" if len(left.classes) == 2 else "multiclass",
        },
        "reference": whole, "chosen": chosen, "test_difference": interval(0.003), "notes": [],
        "candidates": [{**one, **difference} for one in (small, chosen, whole)],
        "figures": {
            "chosen": {
                "trial_id": "ttl-a.1-0", "seed": 0, "threshold": threshold, "test": {"ece": interval(0.051)},
            },
            "reference": {
                "trial_id": "ftl-full-0", "seed": 0, "threshold": threshold, "test": {"ece": interval(0.072)},
            },
        },
    }  # fmt: skip

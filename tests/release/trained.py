"""A small network that was really trained, on pictures made here, with the selection that chose it."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ttl.data.dataset import PackedDataset
from ttl.data.pack import pack
from ttl.data.sources.base import Contents, Sample
from ttl.models.backbones import create, weights_sha256
from ttl.models.cost import cost
from ttl.models.network import NetworkSpec, build_network
from ttl.training.accelerator import make_accelerator
from ttl.training.job import Datasets, run_step
from ttl.training.recipe import make_recipe
from ttl.training.runs import Runs
from ttl.training.trial import Step, Trial

NAME = "squares"
CLASSES = ("plain", "square")
SIDES = {"train": 48, "val": 40, "test": 24}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A workspace after a sweep: `datasets/`, `runs/`, and one dataset's entry of `selection.json`."""

    root: Path
    dataset: PackedDataset
    trial: Trial
    selection: dict[str, Any]

    @property
    def runs(self) -> Path:
        return self.root / "runs"


def make(root: Path) -> Trained:
    dataset = make_dataset(root / "datasets" / NAME)
    runs = Runs(root / "runs")
    source = root / "own.safetensors"
    save_file(create("efficientnet_lite0").state_dict(), source)
    common = {
        "dataset": NAME,
        "revision": dataset.revision,
        "backbone": "efficientnet_lite0",
        "source": str(source),
        "source_sha256": weights_sha256("efficientnet_lite0", str(source)),
        "image_size": 32,
        "seed": 0,
        "recipe": make_recipe({"base": "fast", "epochs": 1, "batch_size": 16, "resize": 1.25}),
    }
    trial = Trial(strategy="ttl", cut="blocks.1", cut_index=1, **common)
    packed = Datasets(root / "datasets", torch.device("cpu"))
    run_step(Step(trial=trial), packed, runs, make_accelerator("no", cpu=True), lambda event: None)
    assert runs.result(trial.trial_id)["status"] == "completed", runs.result(trial.trial_id)
    whole = Trial(strategy="ftl", **common)
    network = build_network(
        NetworkSpec(backbone=whole.backbone, strategy="ftl", num_classes=2, image_size=32), pretrained=False
    )
    runs.work(whole.trial_id)
    runs.publish(whole, {"status": "completed", "device": "cpu", **dataclasses.asdict(cost(network, 32))})
    return Trained(root=root, dataset=dataset, trial=trial, selection=select(dataset, runs, trial, whole))


def make_dataset(folder: Path) -> PackedDataset:
    """Pack 112 grey pictures of 56 patients; every second patient has a bright square."""
    contents = Contents(
        task="binary",
        classes=CLASSES,
        shape=(1, 28, 28),
        licence="CC0",
        source="drawn by tests",
        samples=_samples(),
        given_split=True,
        synthetic=True,
        notes=("Drawn, not | taken.",),
    )
    return pack(NAME, contents, folder, fractions={}, seed=0)


def _samples() -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    sides = [side for side, count in SIDES.items() for _ in range(count)]
    for number, side in enumerate(sides):
        pixels = rng.integers(0, 160, (1, 28, 28), dtype=np.uint8)
        label = number // 2 % 2
        if label:
            x, y = rng.integers(2, 16, 2)
            pixels[0, y : y + 10, x : x + 10] += 90
        yield Sample(
            sample_id=f"s{number}", pixels=pixels, label=label, patient_id=f"p{number // 2}", split=side
        )


def select(dataset: PackedDataset, runs: Runs, trial: Trial, whole: Trial) -> dict[str, Any]:
    """Return an entry of `selection.json`: real costs, made-up figures."""
    ours = model(trial, runs, val=0.981, test=0.972)
    theirs = model(whole, runs, val=0.984, test=0.951)
    figures = {
        "validation": metrics(auroc=0.982, sensitivity=0.95, specificity=0.9),
        "test": metrics(auroc=0.973, sensitivity=0.96, specificity=0.68),
    }
    selection = {
        "rule": {"margin": 0.01, "confidence": 0.95, "resamples": 2000},
        "data": {
            **dataset.info.to_dict(),
            "revision": dataset.revision,
            "patients": {side: count // 2 for side, count in SIDES.items()},
        },
        "reference": theirs,
        "chosen": ours,
        "candidates": [
            {**ours, "difference": interval(-0.003, 0.0049), "non_inferior": True},
            {**theirs, "difference": interval(0.0, 0.0), "non_inferior": True},
        ],
        "figures": {
            "chosen": {"trial_id": trial.trial_id, "seed": 0, "threshold": 0.4375, **figures},
            "reference": {
                "trial_id": whole.trial_id,
                "seed": 0,
                "threshold": 0.5,
                "validation": metrics(auroc=0.985),
                "test": metrics(auroc=0.952),
            },
        },
        "test_difference": interval(0.021, 0.011),
        "notes": ["Two trials failed."],
    }
    return json.loads(json.dumps(selection))


def model(trial: Trial, runs: Runs, *, val: float, test: float) -> dict[str, Any]:
    result = runs.result(trial.trial_id)
    assert result is not None
    return {
        **{key: getattr(trial, key) for key in ("backbone", "source", "strategy", "cut", "image_size")},
        "recipe": trial.recipe.name,
        "processes": 1,
        **{key: result[key] for key in ("params", "macs", "model_bytes", "latency_ms")},
        "seeds": [0],
        "trial_ids": [trial.trial_id],
        "val_auroc": interval(val),
        "test_auroc": interval(test),
    }


def metrics(**values: float) -> dict[str, Any]:
    names = ("auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ece")
    return {name: interval(values.get(name, 0.9)) for name in names}


def interval(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}

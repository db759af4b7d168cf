"""Where the networks of a sweep look: the strategies side by side on the same test images."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl.data.dataset import PackedDataset
from ttl.data.steps import ImageSteps
from ttl.data.transforms import prepare
from ttl.errors import DataError, SearchError
from ttl.evaluation.attention import UNCHANGED, Maps, attention_maps, last_layer, randomise
from ttl.evaluation.metrics import decide
from ttl.layout import Layout
from ttl.models.cuts import list_cuts
from ttl.models.network import NetworkSpec, build_network
from ttl.release.attention_figures import Measured, alt, figures, notes, plain
from ttl.release.choice import Choice, best_trials, choose_images, the_backbone, the_dataset
from ttl.release.predict import load_network
from ttl.release.sheet import Picture, draw_sheet
from ttl.search import results
from ttl.training.loop import image_steps, network_spec
from ttl.training.runs import Runs

SHEET, VALUES = "attention.png", "attention.json"

MEASURED = 96
"""Test images, of those that show what is looked for, over which areas are measured."""

CHECKED, DRAWS = 16, 5
"""Of these, the images on which weights are randomised, and how many times."""

FIRST_DRAW = 1000
"""Seed of the first random network: far from a sweep's seeds, with which training may have begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """The best network of a strategy. `scores` [n, classes] and `decisions` [n] are of the test split."""

    strategy: str
    row: Mapping[str, Any]
    spec: NetworkSpec
    steps: ImageSteps
    network: nn.Module
    layer: str
    scores: NDArray[np.float64]
    decisions: NDArray[np.int64]

    def images(self, dataset: PackedDataset, rows: NDArray[np.int64]) -> Tensor:
        """Return the network's input, [n, 3, s, s], of the samples at these row numbers."""
        pixels = torch.from_numpy(dataset.read(rows))
        return prepare(pixels, image_size=self.spec.image_size, steps=self.steps).contiguous()


def attention(
    layout: Layout,
    *,
    dataset: str | None = None,
    backbone: str | None = None,
    images: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write `attention.png` and `attention.json` to the dataset's analysis; return the latter's values.

    `images` is the number of rows; `seed` draws them, and the images that are measured. Raises `SearchError`
    where there is no such sweep, and `DataError` for a dataset that such maps are not made of.
    """
    trials, entries = results.read_trials(layout.results), results.read_entries(layout.results)
    name = the_dataset(trials, dataset)
    selection = entries.get(name, {})
    backbone = the_backbone(trials.filter(pl.col("dataset") == name), selection, backbone)
    best, missing = best_trials(trials, selection, dataset=name, backbone=backbone)
    packed = _open(layout, name, {row["revision"] for row in best.values()})
    rows = packed.indices("test")
    labels = packed.samples["label"].to_numpy()[rows]
    shown = [_load(row, layout.runs, packed, rows) for row in best.values()]

    # What speaks for the finding, in images with and without it; among several classes, for an image's own.
    targets = np.ones_like(labels) if packed.info.task == "binary" else labels
    choices = choose_images(
        labels,
        decisions={one.strategy: one.decisions for one in shown},
        truth=np.mean([one.scores[np.arange(len(labels)), labels] for one in shown], axis=0),
        count=images,
        seed=seed,
    )
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(labels == targets))[:MEASURED]
    measured = {}
    for one in shown:
        say(f"{one.strategy} {one.row['cut']}: maps of {one.layer}, then with random weights")
        measured[one.strategy] = _measure(one, one.images(packed, rows[drawn]), targets[drawn])
    patients = packed.samples["patient_id"].to_numpy()[rows[drawn]]
    values: dict[str, Any] = {
        "dataset": name,
        "revision": packed.revision,
        "synthetic": packed.info.synthetic,
        "backbone": backbone,
        "method": "Grad-CAM",
        "target": packed.info.classes[1] if packed.info.task == "binary" else None,
        "seed": seed,
        "measured_images": len(drawn),
        "checked_images": min(CHECKED, len(drawn)),
        "draws": DRAWS,
        "unchanged_from": UNCHANGED,
        "strategies": figures(measured, patients),
        "missing": missing,
    }
    places = np.array([one.place for one in choices])
    maps = {
        one.strategy: attention_maps(
            one.network, one.layer, one.images(packed, rows[places]), targets[places]
        )
        for one in shown
    }
    values["samples"] = _samples(choices, packed, rows, labels, targets, shown, maps)
    values["notes"] = notes(values, asked=images)
    values["alt"] = alt(values)
    values = plain(values)
    folder = layout.analysis / name
    folder.mkdir(parents=True, exist_ok=True)
    sheet = draw_sheet(values, _pictures(packed, rows[places], shown, maps))
    for file, content in ((SHEET, sheet), (VALUES, json.dumps(values, indent=2, allow_nan=False).encode())):
        (folder / f".{file}").write_bytes(content)
        (folder / f".{file}").replace(folder / file)
    return values


def _open(layout: Layout, name: str, revisions: set[str]) -> PackedDataset:
    packed = PackedDataset.open(layout.datasets / name)
    if packed.info.volumes:
        raise DataError(f"{name} holds volumes, and attention maps are made of images alone")
    if packed.info.task == "multilabel":
        raise DataError(f"{name} has several labels an image, and attention maps explain one class each")
    if revisions != {packed.revision}:
        raise SearchError(
            f"the sweep was made on {name} of revision {', '.join(sorted(revisions))}, and the dataset is of "
            f"revision {packed.revision}; run `ttl sweep` again"
        )
    return packed


def _load(row: Mapping[str, Any], runs: Runs, packed: PackedDataset, rows: NDArray[np.int64]) -> Attended:
    trial_id = row["trial_id"]
    trial = runs.trial(trial_id)
    predicted = runs.predictions(trial_id).filter(pl.col("split") == "test").sort("sample_id")
    if predicted["sample_id"].to_list() != packed.samples["sample_id"][rows].to_list():
        raise SearchError(
            f"trial {trial_id} was scored on other test images than those of {packed.root}; "
            "run `ttl sweep` again"
        )
    scores = np.array(predicted["scores"].to_list())
    spec = network_spec(trial, packed.info)
    return Attended(
        strategy=trial.strategy,
        row=row,
        spec=spec,
        steps=image_steps(trial),
        network=load_network(spec, runs.weights(trial_id)),
        layer=last_layer(trial.backbone, trial.strategy, trial.cut),
        scores=scores,
        decisions=decide(scores, row["threshold"]),
    )


def _measure(one: Attended, images: Tensor, targets: NDArray[np.int64]) -> Measured:
    draws = [
        build_network(one.spec, pretrained=False, seed=FIRST_DRAW + draw).net.state_dict()
        for draw in range(DRAWS)
    ]
    cascade = randomise(
        one.network,
        one.layer,
        images[:CHECKED],
        targets[:CHECKED].tolist(),
        stages=[cut.name for cut in list_cuts(one.spec.backbone, "stage")],
        draws=draws,
    )
    maps = attention_maps(one.network, one.layer, images, targets.tolist())
    return Measured(row=one.row, layer=one.layer, maps=maps, cascade=cascade)


def _samples(  # noqa: PLR0917 - all are of the same images
    choices: list[Choice],
    packed: PackedDataset,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    targets: NDArray[np.int64],
    shown: list[Attended],
    maps: Mapping[str, Maps],
) -> list[dict[str, Any]]:
    classes = packed.info.classes
    return [
        {
            "sample_id": packed.samples["sample_id"][int(rows[place])],
            "kind": choice.kind,
            "label": classes[labels[place]],
            "target": classes[targets[place]],
            "probabilities": {one.strategy: float(one.scores[place, targets[place]]) for one in shown},
            "predicted": {one.strategy: classes[one.decisions[place]] for one in shown},
            "empty": [name for name, found in maps.items() if found.empty[number]],
        }
        for number, choice in enumerate(choices)
        for place in [choice.place]
    ]


def _pictures(
    packed: PackedDataset, rows: NDArray[np.int64], shown: list[Attended], maps: Mapping[str, Maps]
) -> list[Picture]:
    """Return the packed images, and what each network was given of them with its map."""
    originals = packed.read(rows).transpose(0, 2, 3, 1)
    inputs = {}
    for one in shown:
        mean, std = (torch.tensor(part)[:, None, None] for part in (one.steps.mean, one.steps.std))
        pixels = (one.images(packed, rows) * std + mean).clamp(0, 1) * 255
        inputs[one.strategy] = pixels.round().byte().permute(0, 2, 3, 1).numpy()
    heights = {name: found.values for name, found in maps.items()}
    return [
        Picture(
            original=np.broadcast_to(original, (*original.shape[:2], 3)),
            views={name: (inputs[name][number], heights[name][number]) for name in inputs},
        )
        for number, original in enumerate(originals)
    ]

"""What finetuning changes in a network, layer by layer, and what a network cut there achieves.

After Peng et al., BMVC 2023, "Analysis". Of a backbone and a dataset, three networks see the same images of
the validation split, in evaluation mode:

- *finetuned*: the sweep's FTL trial with the best validation AUROC;
- *before*: the network which that trial started from: its source's weights, before any training;
- *random*: the same architecture as timm initialises it, by another seed than the trial's. (In its ResNets
  residual branches start at zero.)

At every place where the backbone can be cut, the pair `finetuned` compares *before* with *finetuned*: how
much of what was pretrained is still there. The pair `random` compares *random* with *finetuned*: how much
correlation there is with features of no training at all. It is the baseline: a layer whose boxes are at its
level has reused nothing. Beside them stand the metrics of the sweep's TTL networks cut there.

Samples are positions of feature maps, features are channels (`ttl.evaluation.activations`); the measures are
SVCCA and linear CKA (`ttl.evaluation.similarity`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl.data.dataset import PackedDataset
from ttl.data.steps import depth_at
from ttl.data.transforms import prepare
from ttl.errors import DataError, SearchError
from ttl.evaluation.activations import Layer, list_layers, stream
from ttl.evaluation.similarity import VARIANCE, Moments, linear_cka, svcca
from ttl.layout import Layout
from ttl.models.network import build_network
from ttl.models.weights import RANDOM
from ttl.release.finetuned import SAME, beside, best_whole, figures, network_there, read_trial
from ttl.release.predict import load_network
from ttl.release.similarity import METRICS, PAIRS, SCHEMA, Found, read, write
from ttl.search.results import read_trials
from ttl.training.loop import image_steps, network_spec
from ttl.training.pixels import Pixels
from ttl.training.runs import Runs
from ttl.training.trial import Trial

PIXELS = 2**19
"""Pixels of a batch: what bounds the memory that features take."""

MEMORY = 2**30
"""Bytes of second moments held at once; layers that do not fit wait for another pass over the images."""

ENOUGH = 10
"""Positions for each direction compared, below which chance correlations are large (a note says so)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was found on one dataset, as it lies in its folder."""

    folder: Path
    table: pl.DataFrame
    description: dict[str, Any]


def analyse(
    layout: Layout,
    *,
    datasets: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    images: int | None = None,
) -> Iterator[Analysis]:
    """Compare the networks of the last sweep, and write the datasets' analyses; yield one at a time.

    All datasets and backbones of the sweep are taken where none are named.
    """
    trials = read_trials(layout.results)
    known = sorted(trials["dataset"].unique())
    for name in datasets or known:
        if name not in known:
            raise SearchError(f"the last sweep had no dataset {name!r} (it had: {', '.join(known)})")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in datasets or known:
        mine = trials.filter(pl.col("dataset") == name)
        dataset = PackedDataset.open(layout.datasets / name)
        found = [
            compare(mine, backbone=one, runs=layout.runs, dataset=dataset, images=images, device=device)
            for one in backbones or mine["backbone"].unique(maintain_order=True)
        ]
        about = {
            "dataset": name,
            "revision": dataset.revision,
            "synthetic": dataset.info.synthetic,
            "split": "val",
            "images": {"used": found[0].entry["images"], "of": len(dataset.indices("val"))},
            "variance": VARIANCE,
        }
        folder = layout.analysis / name
        write(folder, found, about)
        table, description = read(folder)
        yield Analysis(folder=folder, table=table, description=description)


def compare(
    trials: pl.DataFrame,
    *,
    backbone: str,
    runs: Runs,
    dataset: PackedDataset,
    images: int | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - it is a constant
) -> Found:
    """Return how alike a backbone's features are before and after finetuning on a dataset.

    `trials` is the sweep's table, of this dataset. At most so many `images` of the validation split are
    taken, if given. Raises `SearchError` where the sweep has no whole network to look at, or was of other
    data, weights or code.
    """
    row = best_whole(trials, backbone)
    trial = read_trial(row, runs, dataset)
    spec = network_spec(trial, dataset.info)
    seed = trial.seed + 1
    finetuned = load_network(spec, runs.weights(trial.trial_id)).to(device)
    others: dict[str, nn.Module] = {
        "finetuned": build_network(spec, seed=trial.seed).to(device),
        "random": build_network(replace(spec, source=RANDOM), seed=seed).to(device),
    }
    chosen = choose_images(dataset, images)
    batches = _Batches(dataset, chosen, trial, device)
    layers = list_layers(backbone)
    moments: dict[str, dict[str, Moments]] = {pair: {} for pair in PAIRS}
    for some in passes(layers):
        for pair, of in stream(finetuned, others, iter(batches), [one.name for one in some]).items():
            moments[pair] |= of
    rows: list[dict[str, Any]] = []
    described = []
    networks = beside(trials, row)
    for layer in layers:
        place = {"layer": layer.name, "stage": layer.stage, "index": layer.index}
        directions = {}
        for pair in PAIRS:
            at = moments[pair][layer.name]
            try:
                correlations, cka = svcca(at), linear_cka(at)
            except DataError as error:
                raise DataError(f"{backbone} at {layer.name}, pair {pair}: {error}") from error
            directions[pair] = list(correlations.directions)
            common = {"backbone": backbone, **place, "pair": pair, "positions": at.count}
            rows.append({**common, "measure": "svcca", "values": correlations.values.tolist()})
            rows.append({**common, "measure": "cka", "values": [cka]})
        described.append(
            {
                **place,
                "channels": moments["finetuned"][layer.name].features[0],
                "positions": moments["finetuned"][layer.name].count,
                "directions": directions,
                "network": network_there(networks, layer),
            }
        )
    entry = {
        "backbone": backbone,
        **{key: row[key] for key in SAME},
        # A file's folder is this machine's business; its content is in the checksum.
        "source": Path(row["source"]).name,
        "finetuned": {key: row[key] for key in ("trial_id", "seed", "epochs", *METRICS)},
        "before": {"source": Path(row["source"]).name, "sha256": trial.source_sha256, "seed": trial.seed},
        "random": {"seed": seed},
        "images": len(chosen),
        "whole": figures(networks.filter(pl.col("strategy") == "ftl")),
        "layers": described,
        "notes": _notes(described),
    }
    return Found(table=pl.DataFrame(rows, schema=SCHEMA, orient="row"), entry=entry)


def choose_images(dataset: PackedDataset, most: int | None) -> NDArray[np.int64]:
    """Return row numbers of at most so many validation samples, in the order of their ids.

    Which ones follows from the ids alone: a sample that is chosen stays so when the split grows by others
    that come after it in the order of their hashes.
    """
    rows = dataset.indices("val")
    if most is not None and most < 2:
        raise DataError(f"images is {most}; at least 2 are needed to correlate anything")
    if most is None or most >= len(rows):
        return rows
    ids = dataset.samples["sample_id"].to_list()
    keys = [hashlib.sha256(f"similarity {ids[row]}".encode()).hexdigest() for row in rows]
    return rows[np.sort(np.argsort(keys, kind="stable")[:most])]


def passes(layers: Sequence[Layer], memory: int = MEMORY) -> Iterator[list[Layer]]:
    """Yield the layers in groups, in order, whose second moments fit in so many bytes together.

    A layer that does not fit by itself is a group of its own.
    """
    group: list[Layer] = []
    held = 0
    for layer in layers:
        size = len(PAIRS) * 3 * 8 * layer.channels**2
        if group and held + size > memory:
            yield group
            group, held = [], 0
        group.append(layer)
        held += size
    if group:
        yield group


class _Batches:
    """The chosen images as the trial's network wants them, a batch at a time, as often as asked for."""

    def __init__(
        self, dataset: PackedDataset, rows: NDArray[np.int64], trial: Trial, device: torch.device
    ) -> None:
        self.pixels, self.rows, self.size = Pixels(dataset, device), rows, trial.image_size
        self.steps = image_steps(trial)

    def __iter__(self) -> Iterator[Tensor]:
        depth = depth_at(self.pixels.dataset.info.shape, self.size) or 1
        batch = max(1, PIXELS // (self.size**2 * depth))
        for start in range(0, len(self.rows), batch):
            pixels = self.pixels(self.rows[start : start + batch])
            yield prepare(pixels, image_size=self.size, steps=self.steps)


def _notes(layers: Sequence[dict[str, Any]]) -> list[str]:
    few = [
        one
        for one in layers
        if one["positions"] < ENOUGH * max(sum(kept) for kept in one["directions"].values())
    ]
    if not few:
        return []
    return [
        f"fewer than {ENOUGH} positions for each direction at {', '.join(one['layer'] for one in few)}: "
        "correlations are high there by chance, in the baseline too; more images, or larger ones, help"
    ]

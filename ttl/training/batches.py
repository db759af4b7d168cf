"""Which samples each process sees, and when: pure arithmetic on row numbers."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ttl.errors import TrialError

Indices = NDArray[np.int64]

PADDING = -1
"""Stands for no sample, so that every process has as many rows to score."""


def training_batches(indices: Indices, *, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """Return an epoch's global batches: a permutation that follows (seed, epoch), cut into near-equal parts.

    Near-equal, so that no epoch ends with a batch of one or two images, whose batch-norm statistics and
    gradient would be noise.
    """
    order = np.random.default_rng([seed, epoch]).permutation(indices)
    return np.array_split(order, max(1, -(-len(order) // batch_size)))


def share(batch_length: int, *, rank: int, world: int) -> slice:
    """Return the part of a global batch that process `rank` of `world` works on."""
    bounds = np.linspace(0, batch_length, world + 1).round().astype(int)
    return slice(int(bounds[rank]), int(bounds[rank + 1]))


def micro_batches(mine: slice, *, parts: int) -> list[slice]:
    """Return a process's part of a batch in so many near-equal parts, which it works on one after another."""
    within = [share(mine.stop - mine.start, rank=part, world=parts) for part in range(parts)]
    return [slice(mine.start + one.start, mine.start + one.stop) for one in within]


def check_batches(samples: int, *, batch_size: int, parts: int) -> None:
    """Raise `TrialError` where a part of a batch would have less than the two images that batch norm needs.

    `parts` is the number of processes times that of each one's micro-batches.
    """
    smallest = samples // max(1, -(-samples // batch_size)) // parts
    if smallest < 2:
        raise TrialError(
            f"{samples} training images in batches of {batch_size} leave {smallest} for each of {parts} "
            "parts of a batch; at least 2 are needed: use fewer processes or a larger batch"
        )


def evaluation_batches(indices: Indices, *, batch_size: int, rank: int, world: int) -> Iterator[Indices]:
    """Yield the rows that process `rank` scores, padded with -1 so that all processes have as many."""
    each = -(-len(indices) // world)
    padded = np.full(each * world, PADDING, dtype=np.int64)
    padded[: len(indices)] = indices
    mine = padded[rank * each : (rank + 1) * each]
    for start in range(0, each, batch_size):
        yield mine[start : start + batch_size]


def class_weights(labels: Indices, classes: int, *, weighted: bool) -> NDArray[np.float64]:
    """Return a weight for each class, inverse to its frequency; the mean over samples is 1."""
    if not weighted:
        return np.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise TrialError(f"class number {int(counts.argmin())} has no training image")
    return np.asarray(len(labels) / (classes * counts))


def seed_everything(seed: int, epoch: int, rank: int) -> torch.Generator:
    """Seed torch for one epoch of one process; return the generator of what all processes must share.

    So an epoch is the same whether training came to it at once or by resuming.
    """
    own, shared = np.random.SeedSequence([seed, epoch]).spawn(2)
    torch.manual_seed(int(own.generate_state(1, np.uint64)[0] >> np.uint64(1)) + rank)
    generator = torch.Generator()
    generator.manual_seed(int(shared.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return generator

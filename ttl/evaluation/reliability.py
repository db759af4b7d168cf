"""Calibration, drawn: how often what was predicted was found, by the probability that was given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl.evaluation.metrics import Labels, Probabilities, bin_of

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A bin from `low` to `high`: the mean prediction and the share found, both None without images."""

    low: float
    high: float
    images: int
    predicted: float | None
    found: float | None


def reliability(labels: Labels, probabilities: Probabilities, bins: int = BINS) -> list[Bin]:
    """Return bins of equal width for probabilities [n, classes] of labels [n].

    Of a binary task the second class's probability is looked at, and how often it was that class; of several
    classes the likeliest one's, and how often that was right (as the expected calibration error does: Guo et
    al., ICML 2017).
    """
    if probabilities.shape[1] == 2:
        return binned(labels == 1, probabilities[:, 1], bins)
    return binned(probabilities.argmax(axis=1) == labels, probabilities.max(axis=1), bins)


def binned(found: NDArray[np.bool_], predicted: NDArray[np.float64], bins: int = BINS) -> list[Bin]:
    """Return bins of equal width from 0 to 1 of predictions [n] and what was found [n]."""
    place = bin_of(predicted, bins)
    rows = []
    for number in range(bins):
        here = place == number
        there = bool(here.any())
        rows.append(
            Bin(
                low=number / bins,
                high=(number + 1) / bins,
                images=int(here.sum()),
                predicted=float(predicted[here].mean()) if there else None,
                found=float(found[here].mean()) if there else None,
            )
        )
    return rows

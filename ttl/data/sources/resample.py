"""Bringing an axis to another length by averaging."""

import numpy as np
from numpy.typing import NDArray


def shares(length: int, wanted: int) -> NDArray[np.float32]:
    """Return a matrix [wanted, length] that averages: each output is the mean of what it covers.

    Both axes span the same extent, so a cell counts by the part that an output covers; rows add up to 1.
    """
    edges = np.linspace(0, length, wanted + 1)
    cells = np.arange(length)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights = np.maximum(covered, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

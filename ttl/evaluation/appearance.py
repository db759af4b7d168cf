"""How images look, in a few numbers each: brightness, contrast, sharpness and grain."""

import numpy as np
from numpy.typing import NDArray

from ttl.errors import DataError

STATISTICS = (
    "mean",
    "deviation",
    "quantile 5",
    "quantile 25",
    "quantile 50",
    "quantile 75",
    "quantile 95",
    "black",
    "white",
    "gradient",
    "noise",
    "fineness",
)
"""The columns of `pixel_statistics`, for each channel.

`black` and `white` are the shares of pixels at the ends of the range. `gradient` is the mean absolute
difference of neighbours, and `noise` the deviation of white noise by the mask that is blind to edges
(Immerkær, CVIU 1996), both as log(1 + grey levels). `fineness` is the share of the differences between
neighbours that is left after averaging 2 × 2 pixels: more is smoother.
"""

CHUNK = 4_000_000
"""Pixels that are held as floating-point numbers at once: some 100 MB."""


def pixel_statistics(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the statistics of images, uint8 [n, channels, height, width], as [n, channels · 12].

    Raises `DataError` for images of fewer than 4 × 4 pixels, and for volumes.
    """
    if pixels.ndim != 4:
        raise DataError(
            f"samples of shape {pixels.shape[1:]} are no images: drift is measured on images alone"
        )
    count, channels, height, width = pixels.shape
    if min(height, width) < 4:
        raise DataError(f"images of {height} × {width} pixels have no texture to measure; 4 × 4 is the least")
    planes = pixels.reshape(count * channels, height, width)
    step = max(1, CHUNK // (height * width))
    found = [_of(planes[start : start + step]) for start in range(0, len(planes), step)]
    table = np.concatenate(found) if found else np.empty((0, len(STATISTICS)))
    return table.reshape(count, channels * len(STATISTICS))


def _of(planes: NDArray[np.uint8]) -> NDArray[np.float64]:
    values = planes.astype(np.float32)
    flat = values.reshape(len(values), -1)
    quantiles = np.quantile(flat, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    # The mask [[1, −2, 1], [−2, 4, −2], [1, −2, 1]] is two second differences, one after the other.
    mask = np.diff(np.diff(values, 2, axis=1), 2, axis=2)
    noise = np.sqrt(np.pi / 2) / 6 * np.abs(mask).mean(axis=(1, 2))
    height, width = (side // 2 * 2 for side in values.shape[1:])
    halved = values[:, :height, :width].reshape(len(values), height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    fine, coarse = _gradient(values), _gradient(halved)
    columns = (
        flat.mean(axis=1),
        flat.std(axis=1),
        *quantiles,
        (planes == 0).mean(axis=(1, 2)),
        (planes == 255).mean(axis=(1, 2)),
        np.log1p(fine),
        np.log1p(noise),
        coarse / (fine + coarse + 1e-6),
    )
    return np.stack(columns, axis=1).astype(np.float64)


def _gradient(values: NDArray[np.float32]) -> NDArray[np.float32]:
    down = np.abs(np.diff(values, axis=1)).mean(axis=(1, 2))
    across = np.abs(np.diff(values, axis=2)).mean(axis=(1, 2))
    return np.asarray((down + across) / 2, dtype=np.float32)

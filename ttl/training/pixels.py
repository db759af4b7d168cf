"""Where a training's pixels are kept: on the device as a whole if they fit, else in the mapped shards."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttl.data.dataset import PackedDataset

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory that a dataset may take: the rest is for the network, and for other trials."""


class Pixels:
    """The pixels of a dataset, given out on one device.

    On a GPU the dataset is copied there once, if it takes no more than `RESIDENT_SHARE` of what is free.
    On a CPU the mapped shards are in memory as far as the system has room for them.
    """

    def __init__(
        self, dataset: PackedDataset, device: torch.device, *, share: float = RESIDENT_SHARE
    ) -> None:
        self.dataset, self.device = dataset, device
        self.resident: Tensor | None = None
        if device.type != "cuda":
            return
        size = dataset.samples.height * int(np.prod(dataset.info.shape))
        free, _ = torch.cuda.mem_get_info(device)
        if size <= share * free:
            self.resident = torch.empty(
                (dataset.samples.height, *dataset.info.shape), dtype=torch.uint8, device=device
            )
            for start in range(0, dataset.samples.height, _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, dataset.samples.height))
                self.resident[start : start + len(rows)] = torch.from_numpy(dataset.read(rows)).to(device)
        else:
            logger.info(
                "%s stays in its shards: %.1f GB, and %.1f GB of the device are free",
                dataset.info.name, size / 1e9, free / 1e9,
            )  # fmt: skip

    def __call__(self, indices: NDArray[np.int64]) -> Tensor:
        """Return pixels, uint8 [n, c, h, w], of the samples at these row numbers."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(indices).to(self.device)]
        pixels = torch.from_numpy(self.dataset.read(indices))
        if self.device.type == "cuda":
            return pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels.to(self.device)


_CHUNK = 4096

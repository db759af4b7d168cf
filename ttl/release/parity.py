"""A model's engines held against each other, on the whole validation split."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl.data.dataset import PackedDataset
from ttl.data.steps import ImageSteps
from ttl.data.transforms import prepare
from ttl.evaluation.metrics import Probabilities
from ttl.evaluation.scoring import scoring_of

BATCH = 256
"""Images at a time: of a large split, the predictions alone are held."""

VOLUME_BATCH = 16
"""The same of volumes, each of which is many images."""

Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From prepared images [n, 3, h, w] to logits [n, classes]."""


class Parity:
    """What torch gives on the validation images, to hold other engines against.

    `probabilities` are torch's, [n, classes], `labels` the truth [n] or [n, classes], `scoring` the
    task's.
    """

    def __init__(
        self, network: nn.Module, dataset: PackedDataset, *, image_size: int, steps: ImageSteps
    ) -> None:
        self.dataset, self.image_size, self.steps = dataset, image_size, steps
        self.rows = dataset.indices("val")
        self.labels, self.scoring = dataset.labels[self.rows], scoring_of(dataset.info.task)

        def forward(images: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
            return logits

        self.probabilities = self.run(forward)

    def run(self, forward: Forward) -> Probabilities:
        """Return an engine's probabilities [n, classes] of the validation images."""
        logits = [forward(images.numpy()) for images in self._batches()]
        return self.scoring.probabilities(np.concatenate(logits).astype(np.float64))

    def auroc_change(self, probabilities: Probabilities) -> float:
        """Return an engine's AUROC less torch's."""
        auroc = self.scoring.auroc
        return auroc(self.labels, probabilities) - auroc(self.labels, self.probabilities)

    def spread(self, split: str, most: int) -> Tensor:
        """Return at most so many prepared images of a split, from all over it: float [n, 3, h, w]."""
        rows = self.dataset.indices(split)
        places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64)
        return self._prepared(rows[places])

    def _batches(self) -> Iterator[Tensor]:
        step = VOLUME_BATCH if self.dataset.info.volumes else BATCH
        for start in range(0, len(self.rows), step):
            yield self._prepared(self.rows[start : start + step])

    def _prepared(self, rows: NDArray[np.int64]) -> Tensor:
        pixels = torch.from_numpy(self.dataset.read(rows))
        return prepare(pixels, image_size=self.image_size, steps=self.steps).contiguous()

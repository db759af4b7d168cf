"""What a library of backbones must offer, for the rest to cut, train and rebuild its networks alike.

A backbone is a module with timm's interface: `feature_info`, `prune_intermediate_layers`,
`reset_classifier`, `get_classifier`, `forward_features`, `forward_head`. One that takes volumes has `dims` 3.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a backbone wants its images: per-channel mean and deviation of pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class Family(Protocol):
    """A library's networks, by the names that it has for them."""

    title: str

    def has(self, backbone: str) -> bool:
        """Return whether the library has a network of this name."""

    def similar(self, backbone: str) -> list[str]:
        """Return names like this one, for whoever has mistyped it."""

    def create(self, backbone: str, image_size: int | None = None, **options: Any) -> nn.Module:
        """Return the network with random weights and its original head.

        Raises `ModelError` for an image size or options that it cannot have.
        """

    def pretrained(self, backbone: str, image_size: int | None, file: Path | None = None) -> nn.Module:
        """Return the network with the weights of a file, or else of the library's hub.

        Raises whatever the library does.
        """

    def preprocessing(self, backbone: str) -> Preprocessing:
        """Return how the network wants its images."""

    def native_size(self, backbone: str) -> int | None:
        """Return the only image size that the network was made for, or None if it takes any."""

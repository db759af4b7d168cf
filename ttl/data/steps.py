"""How a network wants its images, as plain values: a released model carries them."""

from dataclasses import dataclass

IMAGE = 3
"""Dimensions of an image: channels, height, width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSteps:
    """How a network wants its images.

    `mean` and `std` are per channel, of pixels in [0, 1]. `resize` is the side before the centre crop, in
    multiples of the image size.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize: float


def depth_at(shape: tuple[int, ...], image_size: int) -> int | None:
    """Return the depth of volumes whose height and width are brought to `image_size`; None for images.

    `shape` is that of the packed samples: the depth keeps its proportion to the height.
    """
    return None if len(shape) == IMAGE else max(1, round(shape[1] * image_size / shape[2]))

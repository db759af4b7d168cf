"""How a network wants its images, as plain values: a released model carries them."""

from dataclasses import dataclass


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

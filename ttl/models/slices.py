"""A network of images on volumes: it sees slices along all three axes, and its answers are averaged (2.5D).

Each slice has its two neighbours for its other colours, so that a grey volume's slices are seen once each. A
head that is linear on pooled features makes the mean of the slices' logits that of the mean of their pooled
features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = 3
AXES = 3


def slices(volumes: Tensor) -> Tensor:
    """Return the slices of volumes [n, 3, d, s, s] along each axis, three to a picture: [n, k, 3, s, s].

    Where the number of slices does not divide by three, the last one is repeated. Slices across the depth
    are stretched to squares.
    """
    side = volumes.shape[-1]
    return torch.cat([_along(volumes, axis, side) for axis in range(AXES)], dim=1)


def count(depth: int, image_size: int) -> int:
    """Return the number of pictures that `slices` makes of a volume."""
    return sum(-(-length // COLOURS) for length in (depth, image_size, image_size))


def _along(volumes: Tensor, axis: int, side: int) -> Tensor:
    turned = volumes.movedim(2 + axis, 2)
    length = turned.shape[2]
    places = torch.arange(-(-length // COLOURS) * COLOURS, device=volumes.device).clamp(max=length - 1)
    # Normalisation is each colour's own: colour c is taken from every third slice, from the c-th on.
    colours = [turned[:, colour, places[colour::COLOURS]] for colour in range(COLOURS)]
    pictures = torch.stack(colours, dim=2)
    if pictures.shape[-2:] == (side, side):
        return pictures
    flat = F.interpolate(pictures.flatten(0, 1), size=(side, side), mode="bilinear", align_corners=False)
    return flat.reshape(-1, pictures.shape[1], COLOURS, side, side)

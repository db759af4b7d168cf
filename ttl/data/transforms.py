"""From packed pixels to a network's input, a batch at a time, on the device that holds the batch.

What is said here of images is done to volumes by `ttl.data.volumes`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttl.data.steps import ImageSteps
from ttl.data.volumes import VolumeAugmentation, augment_volumes, draw_volumes, prepare_volumes

VOLUME_AXES = 5
"""Dimensions of a batch of volumes, [n, c, d, h, w]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """One random crop and flip for each image of a batch: tensors [n].

    `left`, `top`, `width` and `height` are shares of the image's sides.
    """

    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor
    flipped: Tensor

    def __getitem__(self, part: slice) -> "Augmentation":
        """Return what belongs to a part of the batch."""
        return Augmentation(**{name: getattr(self, name)[part] for name in self.__slots__})


def draw(
    count: int, *, crop_scale: float, flip: bool, generator: torch.Generator, volumes: bool = False
) -> Augmentation | VolumeAugmentation:
    """Draw crops of at least `crop_scale` of the image's area, aspect 3:4 to 4:3, and flips for half.

    The distribution of torchvision's `RandomResizedCrop` for square images, with sides cut at the image's.
    """
    if volumes:
        return draw_volumes(count, crop_scale=crop_scale, flip=flip, generator=generator)
    area = torch.empty(count).uniform_(crop_scale, 1.0, generator=generator)
    bound = math.log(4 / 3)
    aspect = torch.empty(count).uniform_(-bound, bound, generator=generator).exp()
    width, height = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    if crop_scale == 1.0:
        width, height = torch.ones(count), torch.ones(count)
    left = torch.rand(count, generator=generator) * (1 - width)
    top = torch.rand(count, generator=generator) * (1 - height)
    flipped = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    return Augmentation(left=left, top=top, width=width, height=height, flipped=flipped)


def augment(
    images: Tensor, augmentation: Augmentation | VolumeAugmentation, *, image_size: int, steps: ImageSteps
) -> Tensor:
    """Return images, uint8 [n, c, h, w], cropped, flipped, resized and normalised: float [n, 3, s, s].

    Bilinear sampling. An image much larger than the output is first reduced, for sampling alone would alias.
    """
    if isinstance(augmentation, VolumeAugmentation):
        return augment_volumes(images, augmentation, image_size=image_size, steps=steps)
    pixels = images.float()
    if min(pixels.shape[-2:]) >= 2 * image_size:
        pixels = _resize(pixels, round(1.5 * image_size), "bilinear")
    drawn = {
        name: getattr(augmentation, name).to(pixels.device)
        for name in ("left", "top", "width", "height", "flipped")
    }
    # The map from output to input, both in [-1, 1] from edge to edge. Rows and columns do not mix, so that
    # no matrix product is needed, as `affine_grid` would take.
    centres = (2 * torch.arange(image_size, device=pixels.device) + 1) / image_size - 1
    width = drawn["width"] * (1.0 - 2.0 * drawn["flipped"].float())
    grid = torch.empty(len(pixels), image_size, image_size, 2, device=pixels.device)
    grid[..., 0] = _across(centres, width, 2 * drawn["left"] + drawn["width"] - 1)[:, None, :]
    grid[..., 1] = _across(centres, drawn["height"], 2 * drawn["top"] + drawn["height"] - 1)[:, :, None]
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _normalise(sampled, steps)


def _across(centres: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return scale[:, None] * centres + shift[:, None]


def prepare(images: Tensor, *, image_size: int, steps: ImageSteps) -> Tensor:
    """Return images, uint8 [n, c, h, w], resized, centre-cropped and normalised: float [n, 3, s, s]."""
    if images.ndim == VOLUME_AXES:
        return prepare_volumes(images, image_size=image_size, steps=steps)
    side = round(image_size * steps.resize)
    pixels = images.float()
    if pixels.shape[-2:] != (side, side):
        pixels = _resize(pixels, side, steps.interpolation)
    start = (side - image_size) // 2
    return _normalise(pixels[..., start : start + image_size, start : start + image_size], steps)


def _resize(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    mode = interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
    resized = F.interpolate(pixels, size=(side, side), mode=mode, antialias=True, align_corners=False)
    return resized.clamp(0, 255)


def _normalise(pixels: Tensor, steps: ImageSteps) -> Tensor:
    """Return (pixels / 255 - mean) / std with three channels, channels-last in memory."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (steps.mean, steps.std))
    # Greyscale spreads: the same picture in each of the channels of a network trained on colours.
    normalised = torch.addcmul(-mean / std, pixels.permute(0, 2, 3, 1).contiguous(), 1 / (255 * std))
    return normalised.permute(0, 3, 1, 2)

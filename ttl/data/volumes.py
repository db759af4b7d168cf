"""From packed volumes to a network's input: the counterpart of `transforms` in three dimensions."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttl.data.steps import ImageSteps, depth_at

AXES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeAugmentation:
    """One random crop and its flips for each volume of a batch: tensors [n, 3], by depth, height and width.

    `start` and `extent` are shares of the volume's sides.
    """

    start: Tensor
    extent: Tensor
    mirrored: Tensor

    def __getitem__(self, part: slice) -> "VolumeAugmentation":
        """Return what belongs to a part of the batch."""
        return VolumeAugmentation(**{name: getattr(self, name)[part] for name in self.__slots__})

    @property
    def flipped(self) -> Tensor:
        """Whether each volume is flipped along any axis, [n]."""
        return self.mirrored.any(dim=1)


def draw_volumes(
    count: int, *, crop_scale: float, flip: bool, generator: torch.Generator
) -> VolumeAugmentation:
    """Draw crops of `crop_scale` or more of the volume, sides 3:4 to 4:3, and flips, each for half.

    Sides are cut at the volume's, so near 1 crops may be smaller than `crop_scale`: at 0.9, down to 0.77.
    """
    volume = torch.empty(count, 1).uniform_(crop_scale, 1.0, generator=generator)
    bound = math.log(4 / 3) / 2
    aspect = torch.empty(count, AXES).uniform_(-bound, bound, generator=generator)
    extent = (volume.log() / AXES + aspect - aspect.mean(dim=1, keepdim=True)).exp().clamp(max=1.0)
    if crop_scale == 1.0:
        extent = torch.ones(count, AXES)
    start = torch.rand(count, AXES, generator=generator) * (1 - extent)
    mirrored = torch.rand(count, AXES, generator=generator) < (0.5 if flip else 0.0)
    return VolumeAugmentation(start=start, extent=extent, mirrored=mirrored)


def augment_volumes(
    volumes: Tensor, augmentation: VolumeAugmentation, *, image_size: int, steps: ImageSteps
) -> Tensor:
    """Return volumes, uint8 [n, c, d, h, w], cropped, flipped, resized and normalised: float [n, 3, d, s, s].

    Trilinear sampling. A volume much larger than the output is first reduced, for sampling alone would alias.
    """
    sides = _sides(volumes, image_size)
    pixels = volumes.float()
    if pixels.shape[-1] >= 2 * image_size:
        pixels = _resize(pixels, _sides(volumes, round(1.5 * image_size)), "bilinear")
    device = pixels.device
    extent, start = augmentation.extent.to(device), augmentation.start.to(device)
    scale = extent * (1.0 - 2.0 * augmentation.mirrored.to(device).float())
    shift = 2 * start + extent - 1
    # As in two dimensions: the axes do not mix. The grid's last dimension is by width, height, depth.
    grid = torch.empty(len(pixels), *sides, AXES, device=device)
    for axis, side in enumerate(sides):
        centres = (2 * torch.arange(side, device=device) + 1) / side - 1
        across = scale[:, axis, None] * centres + shift[:, axis, None]
        grid[..., AXES - 1 - axis] = across.reshape(
            -1, *(side if other == axis else 1 for other in range(AXES))
        )
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _normalise(sampled, steps)


def prepare_volumes(volumes: Tensor, *, image_size: int, steps: ImageSteps) -> Tensor:
    """Return volumes, uint8 [n, c, d, h, w], resized, cropped to the centre and normalised.

    They are float [n, 3, d, s, s] with s the image size, and d in proportion.
    """
    wanted, larger = _sides(volumes, image_size), _sides(volumes, round(image_size * steps.resize))
    pixels = volumes.float()
    if pixels.shape[2:] != larger:
        pixels = _resize(pixels, larger, steps.interpolation)
    for axis, (side, room) in enumerate(zip(wanted, larger, strict=True)):
        pixels = pixels.narrow(2 + axis, (room - side) // 2, side)
    return _normalise(pixels, steps)


def _sides(volumes: Tensor, image_size: int) -> tuple[int, int, int]:
    depth = depth_at(tuple(volumes.shape[1:]), image_size)
    assert depth is not None
    return depth, image_size, image_size


def _resize(pixels: Tensor, sides: tuple[int, int, int], interpolation: str) -> Tensor:
    """Resize each slice, and then along the depth: torch filters against aliasing in two dimensions alone."""
    mode = interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
    depth, height, width = sides
    n, c, d = pixels.shape[:3]
    flat = F.interpolate(
        pixels.flatten(1, 2), size=(height, width), mode=mode, antialias=True, align_corners=False
    )
    flat = flat.reshape(n, c, d, height * width)
    deep = F.interpolate(flat, size=(depth, height * width), mode=mode, antialias=True, align_corners=False)
    return deep.reshape(n, c, depth, height, width).clamp(0, 255)


def _normalise(pixels: Tensor, steps: ImageSteps) -> Tensor:
    """Return (pixels / 255 - mean) / std with three channels, channels-last in memory."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (steps.mean, steps.std))
    normalised = torch.addcmul(-mean / std, pixels.permute(0, 2, 3, 4, 1).contiguous(), 1 / (255 * std))
    return normalised.permute(0, 4, 1, 2, 3)

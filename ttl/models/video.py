"""Torchvision's networks of videos, which take volumes, with the interface of timm's networks.

R3D, MC3 and R(2+1)D: Tran et al., CVPR 2018. Video Swin: Liu et al., CVPR 2022. Names of modules and weights
are torchvision's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.video import resnet, swin_transformer

from ttl.errors import ModelError
from ttl.models.family import Preprocessing
from ttl.models.weights import VIDEO

LAYERS = 4
SWIN_HEADS = (3, 6, 12, 24)


class VideoResNet(resnet.VideoResNet):  # type: ignore[misc]
    """A residual network of volumes [n, 3, d, h, w] that can be cut and given another head."""

    dims = 3

    def __init__(self, makers: Sequence[Any], stem: Callable[..., nn.Module]) -> None:
        super().__init__(resnet.BasicBlock, makers, [2] * LAYERS, stem)
        widths = [64, *(64 * 2**number for number in range(LAYERS))]
        modules = ["stem", *(f"layer{number}" for number in range(1, LAYERS + 1))]
        self.feature_info = [
            {"module": name, "num_chs": width} for name, width in zip(modules, widths, strict=True)
        ]
        self.num_features = self.head_hidden_size = widths[-1]

    def prune_intermediate_layers(
        self, indices: Sequence[int], *, prune_norm: bool = False, prune_head: bool = True
    ) -> None:
        """Remove the layers above the last of these feature points, and the head if asked to."""
        for number in range(max(indices) + 1, LAYERS + 1):
            setattr(self, f"layer{number}", nn.Identity())
        if prune_head:
            self.fc: nn.Module = nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a new linear layer on the pooled features."""
        _only_average(global_pool)
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features [n, c, d, h, w]."""
        x = self.stem(x)
        for number in range(1, LAYERS + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return the logits of features, or the pooled features."""
        pooled: Tensor = self.avgpool(x).flatten(1)
        return pooled if pre_logits else cast("Tensor", self.fc(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes]."""
        return self.forward_head(self.forward_features(x))


class VideoSwin(swin_transformer.SwinTransformer3d):  # type: ignore[misc]
    """A Swin transformer of volumes [n, 3, d, h, w] that can be cut and given another head."""

    dims = 3
    output_fmt = "NDHWC"

    def __init__(self, *, embed_dim: int = 96, num_heads: Sequence[int] = SWIN_HEADS) -> None:
        super().__init__(
            patch_size=[2, 4, 4],
            embed_dim=embed_dim,
            depths=[2, 2, 6, 2],
            num_heads=list(num_heads),
            window_size=[8, 7, 7],
            stochastic_depth_prob=0.1,
        )
        self.embed_dim = embed_dim
        # Between the stages, at odd places, patches are merged.
        self.feature_info = [
            {"module": f"features.{2 * stage}", "num_chs": embed_dim * 2**stage} for stage in range(LAYERS)
        ]
        self.head_hidden_size = self.num_features

    def prune_intermediate_layers(
        self, indices: Sequence[int], *, prune_norm: bool = False, prune_head: bool = True
    ) -> None:
        """Remove the layers above the last of these feature points, and the head if asked to.

        The norm before the head is of the top's width: below the top there is a fresh one.
        """
        last = max(indices)
        self.features: nn.Sequential = nn.Sequential(*list(self.features)[: 2 * last + 1])
        if last < LAYERS - 1:
            self.norm = nn.LayerNorm(self.feature_info[last]["num_chs"], eps=1e-5)
        if prune_head:
            self.head: nn.Module = nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a new linear layer on the pooled features."""
        _only_average(global_pool)
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features [n, d, h, w, c], normalised."""
        features: Tensor = self.norm(self.features(self.pos_drop(self.patch_embed(x))))
        return features

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return the logits of features, or the pooled features."""
        pooled = x.mean((1, 2, 3))
        return pooled if pre_logits else cast("Tensor", self.head(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes]."""
        return self.forward_head(self.forward_features(x))


def _only_average(pool: str) -> None:
    if pool != "avg":
        raise ModelError(f"the head of a network of volumes pools by the average, not by {pool!r}")


def _resnet(makers: Sequence[Any], stem: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda: VideoResNet(makers, stem)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "r3d_18": _resnet([resnet.Conv3DSimple] * LAYERS, resnet.BasicStem),
    "mc3_18": _resnet([resnet.Conv3DSimple, *[resnet.Conv3DNoTemporal] * (LAYERS - 1)], resnet.BasicStem),
    "r2plus1d_18": _resnet([resnet.Conv2Plus1D] * LAYERS, resnet.R2Plus1dStem),
    "swin3d_t": VideoSwin,
}


class VideoFamily:
    """The networks of `BUILDERS`, and their Kinetics-400 weights."""

    title = "torchvision"

    def has(self, backbone: str) -> bool:
        """Return whether it is one of the four."""
        return backbone in VIDEO

    def similar(self, backbone: str) -> list[str]:
        """Return those that begin alike."""
        return [name for name in VIDEO if name[:2] == backbone[:2]]

    def create(self, backbone: str, image_size: int | None = None, **options: Any) -> nn.Module:
        """Return the network with torchvision's initialisation; it takes any size."""
        return BUILDERS[backbone](**options)

    def pretrained(self, backbone: str, image_size: int | None, file: Path | None = None) -> nn.Module:
        """Return the network with a file's weights, in torchvision's naming, or with those of its hub."""
        model = self.create(backbone)
        if file is None:
            state = get_model_weights(backbone).DEFAULT.get_state_dict(progress=False, check_hash=True)
        elif file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
        return model

    def preprocessing(self, backbone: str) -> Preprocessing:
        """Return the mean and deviation of the videos that torchvision's weights were trained on."""
        wanted = get_model_weights(backbone).DEFAULT.transforms()
        return Preprocessing(mean=tuple(wanted.mean), std=tuple(wanted.std), interpolation="bilinear")

    def native_size(self, backbone: str) -> int | None:
        """Return None: they take any size."""
        return None

"""Where a network looks: Grad-CAM (Selvaraju et al., ICCV 2017), computed by torchcam, and its sanity check.

A map that stays as it is when the weights are random shows the image, and nothing of what was learnt from it
(Adebayo et al., NeurIPS 2018). Judged is the magnitude of the rank correlation, a draw and an image at a
time. A random head weighs a layer's channels by random signs: what shows through of the image alone is now
bright, now dark, and signed correlations of both cancel. (Their rank correlation of absolute values is
another thing: it ranks the magnitudes of signed attributions. Grad-CAM's maps are rectified, so it is the
signed one.)
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchcam.methods import GradCAM

from ttl.errors import ModelError
from ttl.models.cuts import list_cuts, resolve
from ttl.models.order import evaluating, trace

UNCHANGED = 0.5
"""Maps explain nothing if the mean magnitude of their rank correlations with those of random weights is at
least so much."""

HALF = 0.5
"""The attended area is where a map exceeds this share of its maximum."""

BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """Maps of one network: `raw` is non-negative, float32 [n, rows, columns], at the layer's positions.

    `size` is the input's side in pixels.
    """

    raw: NDArray[np.float32]
    size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the layer's positions."""
        return self.raw.shape[1], self.raw.shape[2]

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Whether a map is zero everywhere, bool [n]: nothing at the layer speaks for the class."""
        return np.asarray(self.raw.max(axis=(1, 2)) <= 0)

    @property
    def values(self) -> NDArray[np.float32]:
        """The maps as they are shown, float32 [n, size, size] in 0..1: of each the maximum is 1.

        Bilinear between positions, as in the paper. An empty map stays zero.
        """
        raw = torch.from_numpy(self.raw)[:, None]
        wide = F.interpolate(raw, size=(self.size, self.size), mode="bilinear", align_corners=False)[:, 0]
        peak = wide.amax(dim=(1, 2), keepdim=True)
        return np.asarray((wide / torch.where(peak > 0, peak, 1)).numpy())

    def coarsened(self, grid: tuple[int, int]) -> "Maps":
        """Return the maps averaged to fewer positions, to compare networks whose layers differ in them."""
        pooled = F.adaptive_avg_pool2d(torch.from_numpy(self.raw)[:, None], grid)[:, 0]
        return Maps(raw=pooled.numpy(), size=self.size)

    def areas(self) -> NDArray[np.float64]:
        """Return the share of the image that each map attends to, [n]; NaN where a map is empty."""
        return np.where(self.empty, np.nan, (self.values > HALF).mean(axis=(1, 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomised:
    """What is left of maps when all weights from the top down to `part` are random.

    `correlation` is the mean rank correlation of the maps that are left, over images and draws, `absolute`
    the mean of its magnitudes, by which maps are judged; both are NaN if no map is left. `vanished` is the
    share of maps that became empty or even.
    """

    part: str
    correlation: float
    absolute: float
    vanished: float


def last_layer(backbone: str, strategy: str, cut: str) -> str:
    """Return the layer whose map is shown: the cut of a truncated network, the last stage of others."""
    return resolve(backbone, cut) if strategy == "ttl" else list_cuts(backbone, "stage")[-1].name


def attention_maps(network: nn.Module, layer: str, images: Tensor, targets: Sequence[int]) -> Maps:
    """Return the Grad-CAM of each image, [n, 3, s, s] and normalised, at a layer of a timm network.

    `targets` [n] are classes: what is explained is their logit, before any softmax. In a binary task take
    the positive class (1) for every image, so that all maps ask one question, what speaks for the finding;
    what speaks against it is not shown. The network is in evaluation mode meanwhile, and left as it was.
    """
    module = _module(network, layer)
    parts = []
    with (
        evaluating(network),
        torch.enable_grad(),
        GradCAM(network, module, reshape_transform=_reshape(network)) as extractor,
    ):
        for start in range(0, len(images), BATCH):
            # Below a frozen layer no weight asks for gradients: the image does.
            batch = images[start : start + BATCH].detach().clone().requires_grad_()
            logits = network(batch)
            if not bool(torch.isfinite(logits).all()):
                raise ModelError("the network's logits are not finite, so there is nothing to explain")
            [raw] = extractor(list(targets[start : start + BATCH]), logits, normalized=False)
            parts.append(raw.detach().cpu())
    return Maps(raw=torch.cat(parts).float().numpy(), size=int(images.shape[-1]))


def randomise(
    network: nn.Module,
    layer: str,
    images: Tensor,
    targets: Sequence[int],
    *,
    stages: Sequence[str],
    draws: Sequence[Mapping[str, Tensor]],
) -> list[Randomised]:
    """Return what is left of the maps while weights are randomised in a cascade, from the head to the bottom.

    `draws` are states of the same structure with random weights; `stages` the backbone's stages, of which
    those that the network still has are randomised one after the other. The head is all that comes after
    `layer`; what lies between it and the last whole stage is a part named `layer`. The last entry is of a
    network that is random throughout. The network itself is not touched.
    """
    before = attention_maps(network, layer, images, targets).raw
    shaken = copy.deepcopy(network)
    whole = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = []
    for part, names in _cascade(network, layer, stages, int(images.shape[-1])):
        correlations, vanished = [], []
        for draw in draws:
            shaken.load_state_dict({name: (draw if name in names else whole)[name] for name in whole})
            after = attention_maps(shaken, layer, images, targets).raw
            correlations.append(rank_correlations(before, after))
            vanished.append(np.ptp(after, axis=(1, 2)) == 0)
        known = np.stack(correlations)
        found.append(
            Randomised(
                part=part,
                correlation=_mean(known),
                absolute=_mean(np.abs(known)),
                vanished=float(np.mean(vanished)),
            )
        )
    return found


def rank_correlations(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Spearman's correlation of each pair of maps [n, h, w], [n]; NaN where one is even."""
    found = np.full(len(before), np.nan)
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if np.ptp(one) > 0 and np.ptp(other) > 0:
            found[index] = spearmanr(one.ravel(), other.ravel()).statistic
    return found


def by_chance(positions: int) -> float:
    """Return about what magnitude rank correlations of unrelated maps have on average; NaN for one position.

    Spearman's coefficient of n independent pairs has the variance 1/(n - 1) (Kendall); as of a normal one.
    Neighbouring positions of a map are alike, so its own are larger.
    """
    return math.sqrt(2 / (math.pi * (positions - 1))) if positions > 1 else math.nan


def _mean(correlations: NDArray[np.float64]) -> float:
    return float(np.nanmean(correlations)) if np.isfinite(correlations).any() else math.nan


def _cascade(
    network: nn.Module, layer: str, stages: Sequence[str], image_size: int
) -> list[tuple[str, set[str]]]:
    """Return the parts from the top, each with the names of all tensors of it and of what lies above."""
    runs = trace(network, image_size)
    # In place of a stage that was cut off there may be a module that does nothing.
    kept = [name for name in stages if name in runs and _has_weights(network, name)]

    def from_clock(start: int) -> set[str]:
        return {
            name
            for name in network.state_dict()
            if (owner := name.rpartition(".")[0]) in runs and runs[owner].start >= start
        }

    parts = [("head", from_clock(runs[layer].end))]
    # A ViT may be cut between the blocks that count as stages, a DenseNet at a transition.
    if kept and runs[kept[-1]].end < runs[layer].end:
        parts.append((layer, from_clock(runs[kept[-1]].end)))
    parts += [(name, from_clock(runs[name].start)) for name in reversed(kept)]
    return [*parts, ("everything", set(network.state_dict()))]


def _has_weights(network: nn.Module, name: str) -> bool:
    return next(network.get_submodule(name).parameters(), None) is not None


def _module(network: nn.Module, layer: str) -> nn.Module:
    parent = network.get_submodule(layer.rpartition(".")[0])
    # A dense layer returns what it adds; its block, of which it is the last, all features so far.
    return parent if isinstance(parent, nn.ModuleDict) else network.get_submodule(layer)


def _reshape(network: Any) -> Callable[[Tensor], Tensor]:
    """Return what brings a layer's features, or their gradients, to [n, channels, rows, columns]."""

    def reshape(features: Tensor) -> Tensor:
        if features.ndim == 3:
            # Tokens: those of the image, row by row, after the class token and its like.
            rows, columns = network.patch_embed.grid_size
            tokens = features[:, network.num_prefix_tokens :].transpose(1, 2)
            return tokens.reshape(*tokens.shape[:2], rows, columns)
        return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "") == "NHWC" else features

    return reshape

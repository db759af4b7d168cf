"""The network of a trial: a backbone, cut and initialised as a strategy says. Strategies are defined here."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttl.errors import ModelError
from ttl.models.backbones import load_backbone
from ttl.models.cuts import GRANULARITIES, list_cuts, replace_head, resolve, truncate
from ttl.models.heads import flatten_head
from ttl.models.names import FULL, Head
from ttl.models.order import above, blank, is_of_volumes
from ttl.models.slices import slices
from ttl.models.weights import IMAGENET, RANDOM


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """All that rebuilds a network's structure. `image_size` is in pixels; `cut` is `full` for ftl.

    `depth` is in slices, for volumes; None for images. A backbone of images sees volumes slice by slice. A
    network with a flattened head takes images of that size alone.
    """

    backbone: str
    strategy: str
    num_classes: int
    image_size: int
    cut: str = FULL
    source: str = IMAGENET
    head: Head = "pooled"
    depth: int | None = None


class Network(nn.Module):
    """A backbone's network `net` and what of it stays frozen.

    Images [n, 3, h, w], or volumes [n, 3, d, h, w] where there is a `depth`, normalised, become logits
    [n, classes]. Where volumes come to a network of images, it sees their slices, and the logits are the mean
    over them. Frozen modules stay in evaluation mode whatever mode the network is in, so that their
    batch-norm statistics never move.
    """

    def __init__(
        self, net: nn.Module, frozen: frozenset[str] = frozenset(), *, depth: int | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.frozen = frozen
        self.depth = depth

    @property
    def sliced(self) -> bool:
        """Whether a network of images is used on volumes."""
        return self.depth is not None and not is_of_volumes(self.net)

    @property
    def runnable(self) -> nn.Module:
        """What takes the inputs: the backbone's network itself, or the whole that makes slices for it."""
        return self if self.sliced else self.net

    @property
    def memory_format(self) -> torch.memory_format:
        """The order of weights and inputs in memory that computes fastest."""
        return torch.channels_last_3d if is_of_volumes(self.net) else torch.channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [n, classes]."""
        if not self.sliced:
            logits: Tensor = self.net(images)
            return logits
        stack = slices(images)
        each: Tensor = self.net(stack.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return each.reshape(-1, stack.shape[1], each.shape[-1]).mean(1)

    def blank(self, image_size: int) -> Tensor:
        """Return one black input: [1, 3, size, size], or [1, 3, depth, size, size]."""
        if self.sliced:
            return blank(self.net, image_size)[:, :, None].repeat(1, 1, self.depth or 1, 1, 1)
        return blank(self.net, image_size, self.depth)

    def train(self, mode: bool = True) -> "Network":
        """Set training mode, save for the frozen modules."""
        super().train(mode)
        for name in self.frozen:
            self.net.get_submodule(name).training = False
        return self


Build = Callable[[NetworkSpec], Network]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What happens below and above the cut.

    `work` estimates the multiply-accumulates of training on one image, from those of the layers below the
    cut and those above it; a backward pass costs two forward ones. `size` estimates the parameters likewise.
    `cuts` is false where there is no cut;
    `differs_at_top` says whether a cut with nothing above it gives another network than the whole backbone.
    """

    title: str
    build: Build
    work: Callable[[float, float], float]
    size: Callable[[float, float], float]
    cuts: bool = True
    differs_at_top: bool = False


def _full_transfer(spec: NetworkSpec) -> Network:
    net = load_backbone(spec.backbone, spec.source, spec.image_size)
    replace_head(net, spec.num_classes)
    return Network(net)


def _truncated(spec: NetworkSpec) -> Network:
    net = load_backbone(spec.backbone, spec.source, spec.image_size)
    truncate(net, spec.cut, spec.num_classes, spec.image_size)
    return Network(net)


def _layer_wise_finetuning(spec: NetworkSpec) -> Network:
    net = load_backbone(spec.backbone, spec.source, spec.image_size)
    replace_head(net, spec.num_classes)
    upper = set(above(net, spec.cut, spec.image_size))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] in upper)
    ancestors = {name[:i] for name in upper for i, character in enumerate(name) if character == "."} | {""}
    return Network(net, frozenset(name for name, _ in net.named_modules()) - upper - ancestors)


def _transfusion(spec: NetworkSpec) -> Network:
    from ttl.models.slim import slim  # noqa: PLC0415 - the other strategies train without torch-pruning

    net, upper = slim(spec.backbone, spec.cut, spec.num_classes, spec.image_size)
    donor = load_backbone(spec.backbone, spec.source, spec.image_size).state_dict()
    state = net.state_dict()
    lower = {name for name in state if name.rpartition(".")[0] not in set(upper)}
    for name in lower:
        if name not in donor or donor[name].shape != state[name].shape:
            raise ModelError(f"{spec.backbone} at {spec.cut}: pretrained weights lack {name} below the cut")
    net.load_state_dict({name: donor[name] if name in lower else state[name] for name in state})
    return Network(net)


STRATEGIES: dict[str, Strategy] = {
    "ftl": Strategy(
        title="full transfer learning",
        build=_full_transfer,
        work=lambda low, high: 3 * (low + high),
        size=lambda low, high: low + high,
        cuts=False,
    ),
    "ttl": Strategy(
        title="truncated transfer learning",
        build=_truncated,
        work=lambda low, _: 3 * low,
        size=lambda low, _: low,
    ),
    "lwft": Strategy(
        title="layer-wise finetuning",
        build=_layer_wise_finetuning,
        work=lambda low, high: low + 3 * high,
        size=lambda low, high: low + high,
        differs_at_top=True,
    ),
    # Layers half as wide at both ends have a quarter of the products, and of the weights.
    "tf": Strategy(
        title="TransFusion",
        build=_transfusion,
        work=lambda low, high: 3 * (low + high / 4),
        size=lambda low, high: low + high / 4,
    ),
}
"""Peng et al., BMVC 2023, table 1; TransFusion after Raghu et al., NeurIPS 2019."""


def build_network(spec: NetworkSpec, *, pretrained: bool = True, seed: int = 0) -> Network:
    """Return the network of `spec`, ready to train; what is random follows `seed` alone.

    With `pretrained=False` no weights are fetched: the structure alone, to load a trained state into.
    Raises `ModelError` for an unknown backbone, cut or strategy, or a cut that leaves nothing to change.
    """
    if spec.strategy not in STRATEGIES:
        raise ModelError(f"no strategy is called {spec.strategy!r}; there are: {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[spec.strategy]
    if strategy.cuts == (spec.cut == FULL):
        raise ModelError(f"strategy {spec.strategy} {'needs a cut' if strategy.cuts else 'takes no cut'}")
    source = spec.source if pretrained else RANDOM
    cut = resolve(spec.backbone, spec.cut) if strategy.cuts else FULL
    if strategy.cuts and not strategy.differs_at_top and _is_whole(spec.backbone, cut):
        raise ModelError(f"nothing of {spec.backbone} lies above {cut}: {spec.strategy} there is ftl")
    resolved = dataclasses.replace(spec, cut=cut, source=source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = strategy.build(resolved)
        if spec.head == "flattened":
            if is_of_volumes(network.net):
                raise ModelError(
                    f"{spec.backbone} takes volumes: its head is pooled; flattened ones are of images"
                )
            flatten_head(network.net, spec.num_classes, spec.image_size)
    network.depth = spec.depth
    if is_of_volumes(network.net) and spec.depth is None:
        raise ModelError(
            f"{spec.backbone} takes volumes, and these are images: choose a backbone of timm, which takes "
            "images, and volumes slice by slice"
        )
    return network


def _is_whole(backbone: str, cut: str) -> bool:
    return any(
        known.whole and known.name == cut
        for granularity in GRANULARITIES
        for known in list_cuts(backbone, granularity)
    )

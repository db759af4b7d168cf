"""Features of a network at every place where its backbone can be cut, as samples to compare."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttl.errors import DataError
from ttl.evaluation.similarity import Moments
from ttl.models.cuts import list_cuts
from ttl.models.network import Network
from ttl.models.order import evaluating

STEM = "stem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A place in a backbone, counted by `index` from the bottom.

    `cuts` are the names of the cuts there: the block's and, at a stage's end, the stage's too. `whole` says
    that a network truncated there is the whole network.
    """

    name: str
    stage: str
    index: int
    channels: int
    cuts: tuple[str, ...]
    whole: bool


def list_layers(backbone: str) -> tuple[Layer, ...]:
    """Return every place where the backbone can be cut, once each, from the bottom to the top.

    A stage ends with its last block, so both cuts are one place. What lies below the first stage is the stem.
    """
    stages, blocks = list_cuts(backbone, "stage"), list_cuts(backbone, "block")
    names = [stage.name for stage in stages]
    of = {block.name: _stage(block.name, [one.name for one in blocks], names) for block in blocks}
    tops = {stage: block for block, stage in of.items()}
    return tuple(
        Layer(
            name=block.name,
            stage=of[block.name],
            index=block.index,
            channels=block.channels,
            cuts=tuple(
                dict.fromkeys([block.name] + [name for name in names if tops.get(name) == block.name])
            ),
            whole=block.whole,
        )
        for block in blocks
    )


def _stage(block: str, blocks: Sequence[str], stages: Sequence[str]) -> str:
    inside = [stage for stage in stages if block.startswith(f"{stage}.")]
    if inside:
        return inside[0]
    if any(stage not in blocks for stage in stages):
        return STEM
    # Without stages of its own, as in a ViT, a cut at a block ends each of them.
    return next(stage for stage in stages if blocks.index(stage) >= blocks.index(block))


def samples(features: Tensor, *, channels_last: bool) -> Tensor:
    """Return features as samples [positions, channels]; each position of each image is one.

    Feature maps [n, c, h, w] give n·h·w samples, volumes [n, c, d, h, w] n·d·h·w, tokens [n, t, c] n·t (a
    class token is one of them), and vectors [n, c] n. With `channels_last` maps are [n, h, w, c].
    """
    if features.ndim >= 4 and not channels_last:
        features = features.movedim(1, -1)
    return features.reshape(-1, features.shape[-1])


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hand the samples of each layer to `take`, by the layer's name, whenever the model runs.

    The layers are those of a backbone's network, also where a `Network` wraps it.
    """
    model = model.net if isinstance(model, Network) else model
    last = str(getattr(model, "output_fmt", "NCHW")).endswith("C")

    def hook(name: str) -> Callable[..., None]:
        def taken(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                raise DataError(f"{name} gives {type(output).__name__}, not features; it cannot be compared")
            if inputs and isinstance(inputs[0], (list, tuple)):
                # A dense layer returns what it adds: the network's features are all so far.
                output = torch.cat([*inputs[0], output], dim=-1 if last else 1)
            take(name, samples(output, channels_last=last))

        return taken

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stream(
    network: nn.Module,
    others: Mapping[str, nn.Module],
    batches: Iterator[Tensor],
    layers: Sequence[str],
) -> dict[str, dict[str, Moments]]:
    """Return the moments of each of the `others` (x) with the `network` (y), by its name and the layer's.

    All run on the same batches, in evaluation mode. Features of one batch are held at a time.
    """
    found = {name: {layer: Moments() for layer in layers} for name in others}
    held: dict[str, Tensor] = {}

    def hold(layer: str, features: Tensor) -> None:
        # A copy: later layers may work in place.
        held[layer] = features.clone()

    for batch in batches:
        held.clear()
        with evaluating(network), tapped(network, layers, hold):
            network(batch)
        for name, other in others.items():

            def compare(layer: str, features: Tensor, name: str = name) -> None:
                found[name][layer].add(features, held[layer])

            with evaluating(other), tapped(other, layers, compare):
                other(batch)
    return found

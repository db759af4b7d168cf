"""In which order a network's modules run: what lies below a cut, and what above."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Run:
    """When a module started and ended in one forward pass, counted in module calls, and its width there."""

    start: int
    end: int
    channels: int


SHALLOW = 4
"""Slices of the blank volume that shows in which order modules run: that does not depend on its depth."""


def width(features: Tensor, *, last: bool = False) -> int:
    """Return the channels of features [n, c, (d,) h, w], or of tokens [n, t, c] (or [n, c]).

    `last` says that the network has the channels of its features last.
    """
    return features.shape[1] if features.ndim >= 4 and not last else features.shape[-1]


def is_of_volumes(model: nn.Module) -> bool:
    """Return whether a backbone takes volumes [n, 3, d, h, w]; others take images."""
    return getattr(model, "dims", 2) == 3


def blank(model: nn.Module, image_size: int, depth: int | None = None) -> Tensor:
    """Return one black input of a backbone: [1, 3, size, size], or [1, 3, depth, size, size] of volumes."""
    sides = (depth or SHALLOW,) * is_of_volumes(model) + (image_size, image_size)
    return torch.zeros(1, 3, *sides, device=next(model.parameters()).device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without gradients, and each module back as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace(model: nn.Module, image_size: int) -> dict[str, Run]:
    """Run one black image or volume through the model; return each module's `Run` by its name.

    A module that only keeps weights, for its parent to use, runs with its parent.
    """
    clock = 0
    # timm names the order of a network's features where it is not that of convolutions: NHWC.
    last = str(getattr(model, "output_fmt", "")).endswith("C")
    starts: dict[str, int] = {}
    runs: dict[str, Run] = {}

    def started(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal clock
            clock += 1
            starts.setdefault(name, clock)

        return hook

    def ended(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal clock
            clock += 1
            channels = width(output, last=last) if isinstance(output, Tensor) else 0
            if inputs and isinstance(inputs[0], (list, tuple)):
                # A dense layer returns what it adds: at that point the network's features are all so far.
                channels += sum(width(item, last=last) for item in inputs[0])
            runs[name] = Run(starts[name], clock, channels)

        return hook

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(started(name)))
        handles.append(module.register_forward_hook(ended(name)))
    try:
        with evaluating(model):
            model(blank(model, image_size))
    finally:
        for handle in handles:
            handle.remove()
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0]
        if name not in runs and parent in runs and list(module.parameters(recurse=False)):
            runs[name] = runs[parent]
    return runs


def above(model: nn.Module, cut: str, image_size: int) -> list[str]:
    """Return the names of the modules that start after the module `cut` has ended, in order of running."""
    runs = trace(model, image_size)
    end = runs[cut].end
    later = [name for name, run in runs.items() if run.start > end]
    return sorted(later, key=lambda name: runs[name].start)

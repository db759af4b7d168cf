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


def width(features: Tensor) -> int:
    """Return the channels of features [n, c, h, w], or of tokens [n, t, c] (or [n, c])."""
    return features.shape[1] if features.ndim == 4 else features.shape[-1]


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
    """Run one black image [1, 3, size, size] through the model; return each module's `Run` by its name."""
    clock = 0
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
            channels = width(output) if isinstance(output, Tensor) else 0
            if inputs and isinstance(inputs[0], (list, tuple)):
                # A dense layer returns what it adds: at that point the network's features are all so far.
                channels += sum(width(item) for item in inputs[0])
            runs[name] = Run(starts[name], clock, channels)

        return hook

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(started(name)))
        handles.append(module.register_forward_hook(ended(name)))
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            model(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return runs


def above(model: nn.Module, cut: str, image_size: int) -> list[str]:
    """Return the names of the modules that start after the module `cut` has ended, in order of running."""
    runs = trace(model, image_size)
    end = runs[cut].end
    later = [name for name, run in runs.items() if run.start > end]
    return sorted(later, key=lambda name: runs[name].start)

"""What each trial will cost to train, estimated from one forward pass, to balance jobs by."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from ttl.models.backbones import create
from ttl.models.cost import counting
from ttl.models.names import Strategy
from ttl.models.network import STRATEGIES
from ttl.models.order import evaluating, trace

PER_IMAGE = 10_000_000
"""Loading, augmenting and stepping cost about as much as so many multiply-accumulates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Multiply-accumulates of one image: of the whole backbone, and of what lies at and below each module."""

    total: int
    below: dict[str, int]

    def training_work(self, strategy: Strategy, cut: str) -> float:
        """Return the work of one image, forward and backward."""
        low = self.below.get(cut, self.total)
        return STRATEGIES[strategy].work(low, self.total - low) + PER_IMAGE


@lru_cache
def profile(backbone: str, image_size: int) -> Profile:
    """Return the profile of a timm backbone: sums over leaf modules, so attention's products are left out."""
    model = create(backbone, image_size)
    runs = trace(model, image_size)
    with evaluating(model), counting() as counter:
        model(torch.zeros(1, 3, image_size, image_size))
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    counts = {
        name.partition(".")[2]: sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
    }
    parts = {name: count for name, count in counts.items() if name in leaves}
    below = {
        module: sum(count for name, count in parts.items() if runs[name].end <= run.end)
        for module, run in runs.items()
    }
    return Profile(total=sum(parts.values()), below=below)

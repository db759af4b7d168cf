"""What each trial will cost, estimated from one forward pass: to balance jobs by, and to order models."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from ttl.models.backbones import create
from ttl.models.cost import counting
from ttl.models.names import FULL, Strategy
from ttl.models.network import STRATEGIES, NetworkSpec, build_network
from ttl.models.order import blank, evaluating, is_of_volumes, trace
from ttl.models.slices import count

PER_IMAGE = 10_000_000
"""Loading, augmenting and stepping cost about as much as so many multiply-accumulates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A quantity of the whole backbone, and of what lies at and below each of its modules."""

    total: int
    below: dict[str, int]

    def at(self, cut: str) -> tuple[int, int]:
        """Return the quantity at and below the cut, and above it."""
        low = self.total if cut == FULL else self.below[cut]
        return low, self.total - low


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The multiply-accumulates of one image, and the parameters without the classifier's."""

    macs: Parts
    params: Parts

    def training_work(self, strategy: Strategy, cut: str) -> float:
        """Return the work of one image, forward and backward, in multiply-accumulates."""
        return STRATEGIES[strategy].work(*self.macs.at(cut)) + PER_IMAGE

    def size(self, strategy: Strategy, cut: str) -> float:
        """Return the number of parameters, without the head's."""
        return STRATEGIES[strategy].size(*self.params.at(cut))


@lru_cache
def profile(backbone: str, image_size: int, depth: int | None = None) -> Profile:
    """Return the profile of a backbone: sums over leaf modules, so attention's products are left out.

    `depth` is that of volumes; a backbone of images works on each of their slices.
    """
    model = create(backbone, image_size)
    runs = trace(model, image_size)
    with evaluating(model), counting() as counter:
        model(blank(model, image_size, depth))
    times = 1 if depth is None or is_of_volumes(model) else count(depth, image_size)
    counted = {name.partition(".")[2]: found for name, found in counter.get_flop_counts().items()}
    # Those within which nothing was counted: a module may keep its weights in others that never run.
    leaves = set(counted) - {name.rpartition(".")[0] for name in counted} - {""}
    macs = {leaf: sum(counted[leaf].values()) // 2 * times for leaf in leaves}
    head = cast("Any", model).get_classifier()
    params = {
        name: sum(parameter.numel() for parameter in module.parameters(recurse=False))
        for name, module in model.named_modules()
        if module is not head
    }

    def parts(counts: dict[str, int]) -> Parts:
        # By when a module starts: a network's own tokens and embeddings come in at the bottom.
        below = {
            cut: sum(count for name, count in counts.items() if name in runs and runs[name].start <= run.end)
            for cut, run in runs.items()
        }
        return Parts(total=sum(counts.values()), below=below)

    return Profile(macs=parts(macs), params=parts(params))


@lru_cache
def head_size(backbone: str, strategy: Strategy, cut: str, classes: int, image_size: int) -> int:
    """Return the parameters of a network's flattened head."""
    spec = NetworkSpec(
        backbone=backbone,
        strategy=strategy,
        cut=cut,
        num_classes=classes,
        image_size=image_size,
        head="flattened",
    )
    head = cast("Any", build_network(spec, pretrained=False).net).get_classifier()
    return sum(parameter.numel() for parameter in head.parameters())

"""The trials that a sweep may run: every factor of the grid, and the cuts of each backbone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ttl.models.cuts import Cut
from ttl.models.names import FULL, Granularity, Head, Strategy
from ttl.models.network import STRATEGIES
from ttl.training.recipe import Recipe
from ttl.training.trial import Resplit, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The factors of a sweep, as plain values.

    `datasets` are revisions by name. `cuts` are all cuts of a backbone, by backbone and granularity, from the
    bottom to the top. `weights` are the SHA-256 of pretrained weights, by backbone and source: only the pairs
    that are there belong to the space.
    """

    datasets: Mapping[str, str]
    backbones: tuple[str, ...]
    sources: tuple[str, ...]
    strategies: tuple[Strategy, ...]
    granularity: Granularity
    seeds: tuple[int, ...]
    recipes: tuple[Recipe, ...]
    image_size: int
    processes: int
    cuts: Mapping[tuple[str, Granularity], tuple[Cut, ...]]
    weights: Mapping[tuple[str, str], str]
    heads: tuple[Head, ...] = ("pooled",)
    shares: tuple[float, ...] = (1.0,)
    resplit: Resplit = "none"

    def series(self) -> "Iterator[Series]":
        """Yield each series of the grid: a cut is searched within one of these."""
        for dataset, backbone, source, recipe, head, share, strategy in product(
            self.datasets,
            self.backbones,
            self.sources,
            self.recipes,
            self.heads,
            self.shares,
            self.strategies,
        ):
            if (backbone, source) not in self.weights:
                continue
            yield Series(
                space=self,
                dataset=dataset,
                backbone=backbone,
                source=source,
                strategy=strategy,
                recipe=recipe,
                head=head,
                share=share,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One dataset × backbone × source × strategy of a space, by one recipe, with one head, of one share."""

    space: Space
    dataset: str
    backbone: str
    source: str
    strategy: Strategy
    recipe: Recipe
    head: Head
    share: float

    @property
    def condition(self) -> tuple[Recipe, Head, float]:
        """Return under what its trials are comparable: models are never compared across conditions."""
        return self.recipe, self.head, self.share

    def trials(self, granularity: Granularity) -> list[Trial]:
        """Return the trials at every cut of this granularity, all seeds; for ftl, the whole network's."""
        return [trial for cut in self.cuts(granularity) for trial in self.at(cut)]

    def cuts(self, granularity: Granularity) -> list[Cut | None]:
        """Return the cuts that make a network of their own, bottom to top; None is `full`."""
        strategy = STRATEGIES[self.strategy]
        if not strategy.cuts:
            return [None]
        known = self.space.cuts[self.backbone, granularity]
        return [cut for cut in known if strategy.differs_at_top or not cut.whole]

    def at(self, cut: Cut | None) -> list[Trial]:
        """Return the trials at one cut, one a seed."""
        place = (
            {"cut": FULL, "cut_index": -1, "granularity": self.space.granularity}
            if cut is None
            else {"cut": cut.name, "cut_index": cut.index, "granularity": cut.granularity}
        )
        return [
            Trial.from_dict(
                {
                    "dataset": self.dataset,
                    "revision": self.space.datasets[self.dataset],
                    "backbone": self.backbone,
                    "source": self.source,
                    "source_sha256": self.space.weights[self.backbone, self.source],
                    "strategy": self.strategy,
                    "recipe": _plain(self.recipe),
                    "head": self.head,
                    "share": self.share,
                    "resplit": self.space.resplit,
                    "image_size": self.space.image_size,
                    "processes": self.space.processes,
                    "seed": seed,
                    **place,
                }
            )
            for seed in self.space.seeds
        ]


def is_last_block(block: str, stage: str, blocks: Sequence[str]) -> bool:
    """Return whether cutting at `block` is cutting at `stage`: it is the stage's last, or has its name."""
    inside = [name for name in blocks if name == stage or name.startswith(f"{stage}.")]
    return bool(inside) and inside[-1] == block


def between(stages: Sequence[str], blocks: Sequence[str], best: str) -> list[str]:
    """Return the blocks strictly between the neighbours of a stage, but not its own end.

    Names are those of all cuts of a backbone, bottom to top. A block that ends a stage is the stage's cut.
    """
    ends = {
        stage: place
        for stage in stages
        for place, block in enumerate(blocks)
        if is_last_block(block, stage, blocks)
    }
    place = stages.index(best)
    below = [ends[stage] for stage in stages[:place] if stage in ends]
    above = [ends[stage] for stage in stages[place + 1 :] if stage in ends]
    low, high = below[-1] if below else -1, above[0] if above else len(blocks)
    return [block for i, block in enumerate(blocks) if low < i < high and i not in ends.values()]


def _plain(recipe: Recipe) -> dict[str, object]:
    return {name: getattr(recipe, name) for name in recipe.__slots__}

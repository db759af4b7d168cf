"""A trial: what is trained, on which data, how; and the identity that keeps it from being trained twice."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from ttl.errors import TrialError
from ttl.models.names import FULL, Granularity, Head, Strategy
from ttl.training.identity import identity, later
from ttl.training.recipe import Recipe

TRAINING_VERSION = 3
"""Raised by hand with every change of code that can change a trial's result.

It is part of each trial's identity, so that results of before are not taken for results of after.
`tests/training/test_version.py` fails when a result changes and this number does not.
"""

Resplit = Literal["none", "val", "all"]
"""Whether each seed divides the samples anew: not at all; training and validation; or all three splits."""

DESCRIPTIVE = {"cut_index", "granularity"}
"""Fields that say where a cut lies among others: they do not change the result, nor the identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One dataset × backbone × source × strategy × cut × recipe × seed.

    `source` is `imagenet`, `kinetics`, `random` or the path of a weights file; `source_sha256` is of the
    weights themselves: their content is what counts, wherever they lie.
    `cut_index` counts the cuts of this granularity from the bottom; it is -1 for `full`.
    `processes` is part of the identity since batch norm sees each process's share of the batch alone.
    `share` is of the training samples, `resplit` how the samples are divided anew: both follow the seed, and
    `ttl.training.division` says how.
    """

    dataset: str
    revision: str
    backbone: str
    strategy: Strategy
    recipe: Recipe
    image_size: int
    seed: int
    source: str = "imagenet"
    source_sha256: str = ""
    cut: str = FULL
    cut_index: int = -1
    granularity: Granularity = "stage"
    processes: int = 1
    head: Head = later("pooled")
    share: float = later(1.0)
    resplit: Resplit = later("none")

    def __post_init__(self) -> None:
        """Refuse a cut without a strategy that cuts, the reverse, and a share that is none."""
        if not 0 < self.share <= 1:
            raise TrialError(f"share is {self.share}; it must be over 0, at most 1")
        if (self.strategy == "ftl") != (self.cut == FULL):
            raise TrialError(
                f"strategy {self.strategy} does not go with cut {self.cut!r}: "
                f"{FULL!r} belongs to ftl, and every other strategy needs a cut"
            )

    @property
    def trial_id(self) -> str:
        """16 hexadecimal digits that stand for everything that can change the trial's result."""
        known = {name: value for name, value in identity(self).items() if name not in DESCRIPTIVE}
        del known["recipe"]["name"]
        if self.source_sha256:
            del known["source"]
        known["training_version"] = TRAINING_VERSION
        canonical = json.dumps(known, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """A short name for people, such as `phantom efficientnet_lite0 ttl blocks.3 seed 0`."""
        more = "" if self.head == "pooled" else f" {self.head}"
        more += "" if self.share == 1 else f" share {self.share:g}"
        return f"{self.dataset} {self.backbone} {self.strategy} {self.cut}{more} seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Trial":
        """Return the trial that `to_dict` described."""
        return cls(**{**values, "recipe": Recipe(**values["recipe"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The training of a trial up to an epoch, whence it can go on later; None is the recipe's end.

    Each process works on its share of a batch in so many `micro_batches`, which add up to the same gradient:
    more of them where memory does not suffice for one.
    """

    trial: Trial
    epochs: int | None = None
    micro_batches: int = 1

    def __post_init__(self) -> None:
        """Refuse a step that is none."""
        if self.epochs is not None and not 1 <= self.epochs < self.trial.recipe.epochs:
            raise TrialError(
                f"a step of {self.trial.label} is to end at epoch {self.epochs}; it must be at least 1 and "
                f"before the recipe's end, {self.trial.recipe.epochs}"
            )

    @property
    def length(self) -> int:
        """The number of epochs when the step is done, if the schedule does not end the training before."""
        return self.epochs or self.trial.recipe.epochs

    def to_dict(self) -> dict[str, Any]:
        """Return the step as plain values."""
        return {"trial": self.trial.to_dict(), "epochs": self.epochs, "micro_batches": self.micro_batches}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Step":
        """Return the step that `to_dict` described."""
        return cls(**{**values, "trial": Trial.from_dict(values["trial"])})

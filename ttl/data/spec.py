"""What `params.yaml` says of one dataset: its source, the size of its images, its split."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ttl.data.fields import build, convert, settle_types
from ttl.data.sources import SOURCES
from ttl.errors import ParamsError

MAX_SIZE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Fractions:
    """The shares of the samples in each split; they add up to 1."""

    train: float = 0.7
    val: float = 0.15
    test: float = 0.15

    def __post_init__(self) -> None:
        """Refuse shares that leave a split empty or do not add up."""
        settle_types(self, where="split")
        for name, share in self.to_dict().items():
            if share <= 0:
                raise ParamsError(f"split.{name} is {share}; it must be more than 0")
        total = sum(self.to_dict().values())
        if abs(total - 1) > 1e-6:
            raise ParamsError(f"split: train, val and test add up to {total:g}; they must add up to 1")

    def to_dict(self) -> dict[str, float]:
        """Return the share of each split."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """One entry of `prepare:` in `params.yaml`.

    `input` is the file or folder that DVC watches, and that a source of the user's files reads. `size` is
    the side of the packed images in pixels and `channels` is 1 for grey, 3 for colour; `None` is the source's
    own. `split` and `seed` divide the samples where the source has no split of its own; `seed` also drives a
    synthetic source. `options` are the source's own settings.
    """

    source: str
    input: str | None = None
    size: int | None = None
    channels: Literal[1, 3] | None = None
    split: Fractions = field(default_factory=Fractions)
    seed: int = 0
    options: Any = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be used; give `options` its type and defaults."""
        settle_types(self, where="dataset")
        if self.source not in SOURCES:
            raise ParamsError(f"source is {self.source!r}; it must be one of: {', '.join(SOURCES)}")
        if self.size is not None and not 8 <= self.size <= MAX_SIZE:
            raise ParamsError(f"size is {self.size}; it must be from 8 to {MAX_SIZE} pixels")
        if self.seed < 0:
            raise ParamsError(f"seed is {self.seed}; it must not be negative")
        given = {} if self.options is None else self.options
        options = convert(given, SOURCES[self.source].options, f"options of source {self.source}")
        object.__setattr__(self, "options", options)

    @classmethod
    def from_dict(cls, values: object, *, name: str = "dataset") -> "DatasetSpec":
        """Return the spec that plain values give. Raises `ParamsError` naming the setting and its value."""
        try:
            return build(cls, values, where=f"prepare.{name}")
        except ParamsError as error:
            message = str(error)
            raise ParamsError(
                message if message.startswith("prepare.") else f"prepare.{name}: {message}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain values."""
        return dataclasses.asdict(self)

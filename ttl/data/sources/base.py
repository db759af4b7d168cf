"""What every source of images gives, and what it is asked with."""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl.data.dataset import Task
from ttl.data.images import Fit
from ttl.data.labels import Label, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image, uint8 [channels, height, width], or volume [1, depth, height, width], and what is known.

    `label` is the number of its class; for task `multilabel` it is a tuple, one value a class, of those that
    `ttl.data.labels` names. `patient_id` is `None` where patients are not known; `split` is `None`
    where the source has no split of its own.
    """

    sample_id: str
    pixels: NDArray[np.uint8]
    label: Label
    patient_id: str | None = None
    site: str | None = None
    acquired_at: datetime.date | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A source that has been opened: what it holds, and its samples one at a time.

    `samples` is read once, in an order that depends on the source's content alone. `given_split` says that
    each sample carries a split, which is kept. `uncertain` is what becomes of uncertain labels.
    """

    task: Task
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    licence: str
    source: str
    samples: Iterator[Sample]
    given_split: bool = False
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    fit: Fit = "pad"
    uncertain: Policy = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a source is asked for: the entry of `params.yaml`, and the folder for downloaded files.

    `size` and `channels` are those of the images wanted, `None` for the source's own. `options` is of the
    source's own type.
    """

    name: str
    input: str | None
    size: int | None
    channels: int | None
    seed: int
    cache: Path
    options: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A kind of input: the type of its options, and how to open it."""

    title: str
    options: type[Any]
    open: Callable[[Request], Contents]


def task_of(classes: tuple[str, ...]) -> Task:
    """Return the task of images that each belong to exactly one of these classes."""
    return "binary" if len(classes) == 2 else "multiclass"

"""What a source lists: images with what is said of them, and all that is wrong with them in one error."""

import datetime
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl.data.labels import Label
from ttl.data.sources.base import Sample
from ttl.data.sources.table import BadRowsError
from ttl.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An image that is listed: `place` (`line 7`) is for people, `problem` is what is known to be wrong.

    `load` gives its pixels, or raises `DataError`; it is not called where there is a problem.
    """

    place: str
    sample_id: str
    label: Label
    load: Callable[[], NDArray[np.uint8]]
    patient_id: str | None = None
    site: str | None = None
    acquired_at: datetime.date | None = None
    split: str | None = None
    problem: str | None = None


def read_entries(entries: Iterable[Entry], listed_in: str, *, noun: str = "row") -> Iterator[Sample]:
    """Yield the samples of entries in their order.

    Raises `BadRowsError`, once all entries have been tried, with everything that is wrong with any of them.
    """
    problems = []
    for entry in entries:
        try:
            if entry.problem is not None:
                raise DataError(entry.problem)
            pixels = entry.load()
        except DataError as error:
            problems.append(f"{entry.place}: {error}")
            continue
        if not problems:
            yield Sample(
                sample_id=entry.sample_id,
                pixels=pixels,
                label=entry.label,
                patient_id=entry.patient_id,
                site=entry.site,
                acquired_at=entry.acquired_at,
                split=entry.split,
            )
    if problems:
        raise BadRowsError(listed_in, problems, noun=noun)

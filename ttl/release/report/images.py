"""The packed images behind a result, as far as they are here, and what of single images the page may show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttl.data.dataset import PackedDataset
from ttl.errors import DataError
from ttl.release.report.mistakes import Mistake
from ttl.release.report.pictures import thumbnail

PRIVATE = (
    "Single images, and their ids, are left out: pages are sent on, and these may be patients'. "
    "`ttl report --pictures` shows them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A mistake with its picture, and what the picture shows in words."""

    mistake: Mistake
    picture: str
    alt: str


def open_dataset(folder: Path, known: Mapping[str, Any]) -> PackedDataset | str:
    """Return the packed dataset that a sweep describes as `known`, or why it cannot be read."""
    try:
        dataset = PackedDataset.open(folder)
    except DataError as error:
        return f"The packed dataset cannot be read here: {error}"
    if dataset.revision != known["revision"]:
        return (
            f"The packed dataset here is of revision {dataset.revision}, and the sweep was made on revision "
            f"{known['revision']}: its images are not shown. Run `ttl sweep` again"
        )
    return dataset


def examples(dataset: PackedDataset, mistakes: Sequence[Mistake], *, side: int) -> list[Example]:
    """Return the mistakes with small pictures, `side` pixels at most; of a volume, its middle slice."""
    places = dict(zip(dataset.samples["sample_id"].to_list(), range(dataset.samples.height), strict=True))
    rows = np.array([places[one.sample_id] for one in mistakes], dtype=np.int64)
    what = "The middle slice of a volume" if dataset.info.volumes else "An image"
    return [
        Example(
            mistake=one,
            picture=thumbnail(pixels, side),
            alt=f"{what} of {one.actual}, taken for {one.predicted}",
        )
        for one, pixels in zip(mistakes, dataset.read(rows) if len(rows) else (), strict=True)
    ]

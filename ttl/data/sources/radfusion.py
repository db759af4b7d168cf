"""Source `radfusion`: chest CT angiographies with or without pulmonary embolism, as volumes.

Zhou et al., "RadFusion", https://arxiv.org/abs/2111.11665: the release of Stanford's studies on which PENet
was developed (Huang et al., npj Digital Medicine 3:61, 2020). It is not the set of the RSNA challenge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl.data.fields import settle_types
from ttl.data.sources.archive import input_folder, read_text
from ttl.data.sources.base import Contents, Request, Sample, Source
from ttl.data.sources.entries import Entry, read_entries
from ttl.data.sources.resample import shares
from ttl.data.sources.table import Record, Records, read_records, repeated_notes
from ttl.errors import DataError, ParamsError

TABLE = "Labels.csv"
CLASSES = ("no embolism", "embolism")
LABELS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
DEFAULT_SIZE = 128
LICENCE = "Stanford University Dataset Research Use Agreement"

AIR = -500
"""Some of a chest lies below this many Hounsfield units: what has none is not in these units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RadfusionOptions:
    """`depth` is the number of slices of the packed volumes.

    `centre` and `width` are the window in Hounsfield units that becomes 0 to 255; by default PENet's.
    `intercept` is added to the stored values, where they are not yet in these units.
    """

    depth: int = 64
    centre: float = 400.0
    width: float = 1000.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        settle_types(self, where="options")
        if not 1 <= self.depth <= 1024:
            raise ParamsError(f"options.depth is {self.depth}; it must be from 1 to 1024 slices")
        if self.width <= 0:
            raise ParamsError(f"options.width is {self.width}; it must be more than 0")


def open_radfusion(request: Request) -> Contents:
    """Open the folder `input`: `Labels.csv`, and the studies' arrays in folders named by a number.

    Raises `DataError` for a table or column that is missing.
    """
    options: RadfusionOptions = request.options
    if request.channels not in (None, 1):
        raise ParamsError(f"channels is {request.channels}; a CT volume has 1")
    root = input_folder(request, "radfusion")
    table = root / TABLE
    records = read_records(read_text(table), str(table), key="idx", required=("label", "split"))
    size = request.size or DEFAULT_SIZE
    low, high = options.centre - options.width / 2, options.centre + options.width / 2
    return Contents(
        task="binary",
        classes=CLASSES,
        shape=(1, options.depth, size, size),
        licence=LICENCE,
        source="RadFusion: Multimodal Pulmonary Embolism Dataset (Zhou et al., arXiv:2111.11665), "
        "https://stanfordaimi.azurewebsites.net/datasets/3a7548a4-8f65-4ab7-85fa-3d68c9efc1bd",
        samples=_samples(root, table, records, options, size),
        given_split=True,
        notes=(
            "The table names studies, not patients, and some patients have two: whether the published split "
            "keeps them together cannot be told from it.",
            f"Values from {low:g} to {high:g} Hounsfield units became 0 to 255; a whole series became "
            f"{options.depth} slices, by averaging.",
            *repeated_notes(records.repeated, TABLE),
        ),
        fit="stretch",
    )


def _samples(
    root: Path, table: Path, records: Records, options: RadfusionOptions, size: int
) -> Iterator[Sample]:
    files: dict[str, Path] = {}
    for path in sorted(root.glob("[0-9]*/*.npy")):
        if files.setdefault(path.stem, path) is not path:
            raise DataError(f"{files[path.stem]} and {path} are two arrays of one study; remove one of them")

    def entry(row: Record) -> Entry:
        name, problem = row.values.get("idx", ""), row.problem
        if problem is None:
            problem = _problem(row.values, name, files)
        return Entry(
            place=f"line {row.line}",
            sample_id=name,
            label=LABELS[row.values["label"]] if problem is None else -1,
            load=partial(_volume, files.get(name, root), options, size),
            split=SPLITS.get(row.values.get("split", "")),
            problem=problem,
        )

    yield from read_entries(map(entry, records.rows), str(table))


def _problem(values: dict[str, str], name: str, files: dict[str, Path]) -> str | None:
    if values["label"] not in LABELS:
        return f"study {name} has label {values['label']!r}; it must be 0 or 1"
    if values["split"] not in SPLITS:
        return f"study {name} has split {values['split']!r}; it must be one of train, val, test"
    if name not in files:
        return f"study {name} has no {name}.npy in the folders 0 to 7"
    return None


def _volume(path: Path, options: RadfusionOptions, size: int) -> NDArray[np.uint8]:
    """Return a study as uint8 [1, depth, size, size], a slice in memory at a time."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path.name}: the array cannot be read: {error}") from error
    if stored.ndim != 3 or stored.dtype.kind not in "iuf" or 0 in stored.shape:
        raise DataError(
            f"{path.name} is {stored.dtype} {stored.shape}; expected are numbers, (slices, height, width)"
        )
    slices, height, width = stored.shape
    across, down = shares(width, size), shares(height, size)
    resized = np.empty((slices, size, size), dtype=np.float32)
    lowest = np.inf
    for number in range(slices):
        values = stored[number].astype(np.float32) + np.float32(options.intercept)
        lowest = min(lowest, float(values.min()))
        resized[number] = down @ values @ across.T
    if not np.isfinite(resized).all():
        raise DataError(f"{path.name} has values that are not finite")
    if lowest > AIR:
        raise DataError(
            f"{path.name}: its least value is {lowest:g}; a chest has air, of about −1000 Hounsfield units. "
            "If the values are stored with an offset, set options.intercept (such as -1024)"
        )
    volume = np.tensordot(shares(slices, options.depth), resized, axes=1)
    scaled = (volume - (options.centre - options.width / 2)) / options.width
    return np.asarray(np.clip(scaled, 0, 1) * 255.999, dtype=np.uint8)[None]


SOURCE = Source(
    title="RadFusion CT angiographies (PENet's, Stanford), as published",
    options=RadfusionOptions,
    open=open_radfusion,
)

"""A packed dataset: raw pixels in memory-mapped shards, one table of samples, one description."""

import dataclasses
import hashlib
import json
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.data.images import Fit, Windowing
from ttl.data.labels import Policy, to_array
from ttl.errors import DataError

Task = Literal["binary", "multiclass", "multilabel"]
TASKS: tuple[Task, ...] = get_args(Task)
SPLITS = ("train", "val", "test")

VOLUME_DIMENSIONS = 4
"""Of a volume: channel, depth, height, width."""

INFO = "dataset.json"
SAMPLES = "samples.parquet"

SCHEMA = pl.Schema(
    {
        "sample_id": pl.String,
        "patient_id": pl.String,
        "site": pl.String,
        "acquired_at": pl.Date,
        "label": pl.Int64,
        "split": pl.String,
        "sha256": pl.String,
        "shard": pl.Int64,
        "row": pl.Int64,
    }
)
"""Columns of `samples.parquet`. `sha256` is of a sample's pixels; `row` counts within its shard."""


def schema_of(task: Task, classes: int) -> pl.Schema:
    """Return the columns of a task: the labels of `multilabel` are as many as there are classes."""
    if task != "multilabel":
        return SCHEMA
    return pl.Schema({**SCHEMA, "label": pl.Array(pl.Int8, classes)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """What `dataset.json` says.

    `shape` is (channels, height, width) of each sample, or (1, depth, height, width) of volumes. `counts`
    gives samples by split and class; where images have several labels, `images` gives those by split, and no
    class need be present in one. `notes` are sentences for people: leaks of a published split, what was
    assumed. `fit` is how images of another shape were brought to this one. `given_split` says that the split
    came with the samples, undrawn. `window` is how DICOM files of drops become 8 bits; None where none are
    taken in. `uncertain` is the policy that made up labels of training images; it is `ignore` where none was
    made up. Of a dataset packed by an earlier version both may be None, because they are not known.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    licence: str
    source: str
    counts: dict[str, dict[str, int]]
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    fit: Fit = "pad"
    images: dict[str, int] | None = None
    given_split: bool = True
    uncertain: Policy | None = None
    window: Windowing | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The images in each split."""
        return self.images or {split: sum(counts.values()) for split, counts in self.counts.items()}

    @property
    def volumes(self) -> bool:
        """Whether the samples are volumes; else they are images."""
        return len(self.shape) == VOLUME_DIMENSIONS

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DatasetInfo":
        """Return the description that `to_dict` gave."""
        tuples = {name: tuple(values[name]) for name in ("classes", "shape", "notes")}
        if isinstance(values.get("window"), list):
            tuples["window"] = tuple(values["window"])
        return cls(**{**values, **tuples})


@dataclass(frozen=True, slots=True)
class PackedDataset:
    """A dataset on disk. `samples` has the columns of `SCHEMA`, one row a sample, in the shards' order."""

    root: Path
    info: DatasetInfo
    samples: pl.DataFrame
    _shards: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)
    _revision: list[str] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def open(cls, root: Path) -> "PackedDataset":
        """Open the dataset in folder `root`. Raises `DataError` if it is not there or cannot be used."""
        if not (root / INFO).is_file():
            raise DataError(f"there is no packed dataset in {root}; `ttl data prepare {root.name}` makes it")
        before = root.stat().st_ino
        try:
            info = DatasetInfo.from_dict(json.loads((root / INFO).read_text(encoding="utf-8")))
            samples = pl.read_parquet(root / SAMPLES)
        except (OSError, ValueError, TypeError, KeyError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{root} is not a usable dataset: {error}; `ttl data prepare` makes it anew"
            ) from error
        schema = schema_of(info.task, len(info.classes))
        if samples.schema != schema:
            raise DataError(f"{root / SAMPLES} has columns {samples.schema}, not {schema}; prepare it anew")
        dataset = cls(root, info, samples)
        for number in samples["shard"].unique():
            dataset._shard(number)
        # What is mapped stays, whatever is written in its place; labels and pixels must be of one writing.
        if not root.exists() or root.stat().st_ino != before:
            raise DataError(f"{root} was written anew while it was being opened; try again")
        return dataset

    @property
    def revision(self) -> str:
        """16 hexadecimal digits that stand for the content: pixels, labels, splits, classes.

        Neither the folder's place nor the wording of a note changes it.
        """
        if not self._revision:
            self._revision.append(self._hash())
        return self._revision[0]

    def _hash(self) -> str:
        digest = hashlib.sha256()
        info = self.info
        digest.update(json.dumps([info.task, info.classes, info.shape]).encode())
        columns = ["sample_id", "patient_id", "site", "acquired_at", "label", "split", "sha256"]
        for row in self.samples.select(columns).sort("sample_id").iter_rows():
            digest.update(json.dumps(row, default=str).encode())
        return digest.hexdigest()[:16]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The samples' labels: numbers of classes [n], or [n, classes] as `ttl.data.labels` has them."""
        return to_array(self.samples["label"])

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of a split's samples, by their ids: what is trained follows the content."""
        rows = self.samples.with_row_index("position").filter(pl.col("split") == split).sort("sample_id")
        return rows["position"].to_numpy().astype(np.int64)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return pixels, uint8 [n, *shape], of the samples at these row numbers, in their order."""
        shards = self._shard_numbers[indices]
        rows = self._row_numbers[indices]
        pixels = np.empty((len(indices), *self.info.shape), dtype=np.uint8)
        for shard in np.unique(shards):
            here = shards == shard
            pixels[here] = self._shard(int(shard))[rows[here]]
        return pixels

    @property
    def _shard_numbers(self) -> NDArray[np.int64]:
        return self.samples["shard"].to_numpy()

    @property
    def _row_numbers(self) -> NDArray[np.int64]:
        return self.samples["row"].to_numpy()

    def _shard(self, number: int) -> NDArray[np.uint8]:
        if number not in self._shards:
            path = self.root / shard_name(number)
            expected = int((self._shard_numbers == number).sum())
            size = int(np.prod(self.info.shape))
            if not path.is_file() or path.stat().st_size < expected * size:
                raise DataError(f"{path} is missing or too short for its {expected} samples; prepare it anew")
            pixels = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, *self.info.shape)
            # Samples are read in random order: reading ahead would only fill the memory.
            pixels._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
            self._shards[number] = pixels
        return self._shards[number]

    def check(self) -> None:
        """Read every sample and compare its checksum. Raises `DataError` naming the first that differs."""
        for index, (sample, expected) in enumerate(self.samples.select("sample_id", "sha256").iter_rows()):
            found = pixel_hash(self.read(np.array([index]))[0])
            if found != expected:
                raise DataError(
                    f"{self.root}: the pixels of {sample} have SHA-256 {found[:12]}…, recorded is "
                    f"{expected[:12]}…; `dvc checkout` or `ttl data prepare` restores the file"
                )


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.u8"


def pixel_hash(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of a sample's pixels and shape, in hexadecimal."""
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()

"""Source `medmnist`: the published files of MedMNIST, 2D and 3D, with the split they come with.

Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023), https://doi.org/10.1038/s41597-022-01721-8.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ttl.data.dataset import SPLITS
from ttl.data.fetch import RemoteFile, check_checksum, fetch, verify
from ttl.data.fields import settle_types
from ttl.data.sources.base import Contents, Request, Sample, Source, task_of
from ttl.data.sources.medmnist_catalogue import (
    CATALOGUE,
    MULTILABEL,
    RECORD,
    Published,
    file_name,
)
from ttl.errors import DataError, ParamsError

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class MedmnistOptions:
    """`flag` is the published name, by default the dataset's own.

    `accept_checksum` (`md5:…` or `sha256:…`) accepts one file that is not the published one.
    """

    flag: str | None = None
    accept_checksum: str | None = None

    def __post_init__(self) -> None:
        """Refuse a flag that is not published, or that this source does not read."""
        settle_types(self, where="options")
        if self.flag is not None:
            published(self.flag)
        if self.accept_checksum is not None:
            try:
                check_checksum(self.accept_checksum)
            except DataError as error:
                raise ParamsError(f"options.accept_checksum: {error}") from error


def published(flag: str) -> Published:
    """Return what is known of the dataset `flag`. Raises `ParamsError` where it cannot be used."""
    if flag not in CATALOGUE:
        raise ParamsError(
            f"options.flag: MedMNIST has no dataset {flag!r}; it has: {', '.join(CATALOGUE)}. "
            "Without options.flag, the dataset's own name is taken"
        )
    return CATALOGUE[flag]


def open_medmnist(request: Request) -> Contents:
    """Open a published file, `input` where that names an .npz, else fetched.

    Raises `DataError` for a wrong checksum, or a file whose arrays are not what is published.
    """
    options: MedmnistOptions = request.options
    flag = options.flag or request.name
    about = published(flag)
    size = request.size or min(about.md5)
    if size not in about.md5:
        sizes = ", ".join(map(str, about.md5))
        raise ParamsError(f"size is {size}; {flag} is published in the sizes {sizes}")
    if request.channels not in (None, about.channels):
        raise ParamsError(f"channels is {request.channels}; the images of {flag} have {about.channels}")
    name = file_name(flag, size)
    checksum = f"md5:{about.md5[size]}"
    if request.input is not None and request.input.endswith(".npz"):
        path = Path(request.input)
        if not path.is_file():
            raise DataError(f"the file {path} does not exist")
        verify(path, tuple(c for c in (options.accept_checksum, checksum) if c), where=str(path))
    else:
        path = fetch(
            RemoteFile(name=name, address=f"{RECORD}/{name}?download=1", checksum=checksum),
            cache=request.cache,
            accept_checksum=options.accept_checksum,
        )
    notes = [about.note] if about.note else []
    if options.accept_checksum is not None:
        notes.append(f"The file was accepted by its checksum {options.accept_checksum}.")
    return Contents(
        task="multilabel" if flag in MULTILABEL else task_of(about.classes),
        classes=about.classes,
        shape=(about.channels, *(size,) * (3 if about.volumes else 2)),
        licence=about.licence,
        source=f"{about.title} of MedMNIST+ (Yang et al., Scientific Data 2023), {RECORD}/{name}",
        samples=read_samples(
            path, classes=len(about.classes), several=flag in MULTILABEL, volumes=about.volumes
        ),
        given_split=True,
        notes=tuple(notes),
    )


def read_samples(
    path: Path, *, classes: int, several: bool = False, volumes: bool = False
) -> Iterator[Sample]:
    """Yield the samples of an .npz file, train, val, test, one in memory at a time, without pickle.

    `several` says that images have a label a class, 0 or 1. Raises `DataError` naming the file and the
    array that cannot be used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            for split in SPLITS:
                for kind in ("images", "labels"):
                    if f"{split}_{kind}.npy" not in names:
                        found = ", ".join(sorted(names)) or "nothing"
                        raise DataError(f"{path} has no array {split}_{kind}; it has: {found}")
            for split in SPLITS:
                yield from _read_split(path, archive, split, classes, several=several, volumes=volumes)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as a MedMNIST file: {error}") from error


def _read_split(
    path: Path, archive: zipfile.ZipFile, split: str, classes: int, *, several: bool, volumes: bool
) -> Iterator[Sample]:
    with _array(path, archive, f"{split}_labels") as (shape, dtype, stream):
        if len(shape) != 2 or dtype.kind not in "iu":
            raise DataError(f"{path}: {split}_labels is {dtype} {shape}; expected is whole numbers, (n, 1)")
        expected = classes if several else 1
        if shape[1] != expected:
            raise DataError(f"{path}: {split}_labels has {shape[1]} labels an image; expected is {expected}")
        flat = np.frombuffer(_exactly(stream, shape[0] * shape[1] * dtype.itemsize), dtype=dtype)
    wrong = np.flatnonzero((flat < 0) | (flat >= (2 if several else classes)))
    if len(wrong):
        meaning = "a label is 0 or 1" if several else f"the {classes} classes are numbered from 0"
        raise DataError(
            f"{path}: {split}_labels[{wrong[0] // expected}] is {flat[wrong[0]]}; {meaning} "
            f"({len(wrong)} such labels)"
        )
    labels = flat.reshape(shape)
    with _array(path, archive, f"{split}_images") as (shape, dtype, stream):
        _check_images(f"{path}: {split}_images", shape, dtype, count=len(labels), volumes=volumes)
        for index, label in enumerate(labels):
            image = np.frombuffer(_exactly(stream, int(np.prod(shape[1:]))), dtype=np.uint8)
            yield Sample(
                sample_id=f"{split}-{index:06d}",
                pixels=_channels_first(image.reshape(shape[1:]), volume=volumes),
                label=tuple(label.tolist()) if several else int(label[0]),
                split=split,
            )


def _check_images(
    where: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, count: int, volumes: bool
) -> None:
    if volumes and (len(shape) != 4 or dtype != np.uint8):
        raise DataError(f"{where} is {dtype} {shape}; expected is uint8, (n, d, h, w)")
    if not volumes and (len(shape) == 5 or (len(shape) == 4 and shape[-1] not in (1, 3))):
        raise DataError(f"{where} has shape {shape}: volumes; expected are images")
    if len(shape) not in (3, 4) or dtype != np.uint8:
        raise DataError(f"{where} is {dtype} {shape}; expected is uint8, (n, h, w) or (n, h, w, 3)")
    if shape[0] != count:
        raise DataError(f"{where} has {shape[0]} images for {count} labels")


@contextlib.contextmanager
def _array(
    path: Path, archive: zipfile.ZipFile, name: str
) -> Iterator[tuple[tuple[int, ...], np.dtype[np.generic], IO[bytes]]]:
    """Give an array's shape, type and the stream of its bytes; pickled objects are refused."""
    with archive.open(f"{name}.npy") as stream:
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = header(stream)
        if dtype.hasobject:
            raise DataError(f"{path}: {name} holds pickled Python objects, which are not read")
        if by_columns and len(shape) > 1 and shape[1:] != (1,):
            raise DataError(f"{path}: {name} is stored by columns; save it anew with numpy.ascontiguousarray")
        yield shape, dtype, stream


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"an array ends {count - len(data)} bytes too early")
    return data


def _channels_first(image: NDArray[np.uint8], *, volume: bool) -> NDArray[np.uint8]:
    return image[None] if volume or image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


SOURCE = Source(title="published MedMNIST files", options=MedmnistOptions, open=open_medmnist)

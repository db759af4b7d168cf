"""Reading one volume, from an array file or a folder of slices, into the pixels that a dataset holds."""

import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl.data.images import Fit, read_image
from ttl.errors import DataError

ARRAYS = (".npy", ".npz")

SHOWN = 4
"""So many names are shown in a message."""


def read_volume(path: Path, *, shape: tuple[int, int, int], fit: Fit) -> NDArray[np.uint8]:
    """Return a volume as uint8 [1, depth, height, width], which is of this `shape` (depth, height, width).

    An array file holds one array, uint8 [depth, height, width], and is taken as it is. A folder holds one
    image a slice, in the order that `in_order` finds, and each is brought to the height and width as `fit`
    says.
    Raises `DataError` for another depth or shape: how to resample a volume follows from its spacing, which
    neither tells.
    """
    if path.is_dir():
        return _read_slices(path, shape, fit)
    if path.suffix not in ARRAYS:
        raise DataError(
            f"{path}: a volume is a folder of slices, or a file of one array: {', '.join(ARRAYS)}"
        )
    volume = _read_array(path)
    if volume.dtype != np.uint8 or volume.shape != shape:
        raise DataError(
            f"{path} is {volume.dtype} {volume.shape}, and the model takes uint8 {shape}: window it and "
            "resample it as those that the model was trained on"
        )
    return volume[None]


def _read_array(path: Path) -> NDArray[np.uint8]:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if len(found.files) != 1:
                raise DataError(f"{path} has the arrays {', '.join(found.files) or 'none'}; it must have one")
            volume: NDArray[np.uint8] = found[found.files[0]]
            return volume
    except FileNotFoundError as error:
        raise DataError(f"{path}: the volume is missing") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the volume cannot be read: {error}") from error


def in_order(names: Collection[str]) -> list[str]:
    """Return the names of slices in their order: `slice2.png` is before `slice10.png`.

    Raises `DataError` where names do not tell it: read as text they have one order and read as numbers
    another, or none, and it is not one number alone in which they differ.
    """
    text = sorted(names)
    parts = [re.split("([0-9]+)", name) for name in text]
    keys = [tuple(int(part) if at % 2 else part for at, part in enumerate(one)) for one in parts]
    numbered = [name for _, name in sorted(zip(keys, text, strict=True))]
    if len(set(keys)) == len(keys):
        differ = [at for at, part in enumerate(zip(*keys, strict=False)) if len(set(part)) > 1]
        one_number = len({len(key) for key in keys}) == 1 and len(differ) == 1 and differ[0] % 2 == 1
        if numbered == text or one_number:
            return numbered
    raise DataError(
        f"the names of the slices ({', '.join(text[:SHOWN])}, ...) do not tell their order: read as text "
        "they have another than read as numbers; number them from 001, all in as many digits"
    )


def _read_slices(folder: Path, shape: tuple[int, int, int], fit: Fit) -> NDArray[np.uint8]:
    depth, height, width = shape
    names = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if len(names) != depth:
        raise DataError(f"{folder} has {len(names)} slices, and the model takes volumes of {depth}")
    try:
        files = [folder / name for name in in_order(names)]
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error
    read = [read_image(path, name=str(path), channels=1, size=(height, width), fit=fit) for path in files]
    return np.stack([one[0] for one in read])[None]

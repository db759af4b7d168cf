"""Reading one volume, from an array file or a folder of slices, into the pixels that a dataset holds."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl.data.images import Fit, read_image
from ttl.errors import DataError

ARRAYS = (".npy", ".npz")


def read_volume(path: Path, *, shape: tuple[int, int, int], fit: Fit) -> NDArray[np.uint8]:
    """Return a volume as uint8 [1, depth, height, width], which is of this `shape` (depth, height, width).

    An array file holds one array, uint8 [depth, height, width], and is taken as it is. A folder holds one
    image a slice, in the order of the names, and each is brought to the height and width as `fit` says.
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


def _read_slices(folder: Path, shape: tuple[int, int, int], fit: Fit) -> NDArray[np.uint8]:
    depth, *size = shape
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if len(files) != depth:
        raise DataError(f"{folder} has {len(files)} slices, and the model takes volumes of {depth}")
    height, width = size
    read = [read_image(path, name=str(path), channels=1, size=(height, width), fit=fit) for path in files]
    return np.stack([one[0] for one in read])[None]

"""How long is waited for what may pass: a storage that does not answer, a disk that is full."""

import errno
import os
import shutil
from pathlib import Path

from ttl.errors import ServiceError

VARIABLE = "TTL_PATIENCE"
PATIENCE = 300.0

LEAST_ROOM = 1 << 20
"""A disk with fewer bytes free is full."""


def patience() -> float:
    """Return the seconds to wait, 300 if `TTL_PATIENCE` does not say otherwise."""
    return seconds(VARIABLE, PATIENCE)


def seconds(variable: str, default: float) -> float:
    """Return the number of seconds that a variable of the environment says."""
    text = os.environ.get(variable)
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if value <= 0:
        raise ServiceError(f"{variable} is {text!r}; it must be a number of seconds above 0")
    return value


def is_full(error: BaseException, folder: Path) -> bool:
    """Return whether an error comes of a full disk. `folder` is where was written."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    # Writers in other languages have errors of their own for it.
    return "No space left" in str(error) or shutil.disk_usage(folder).free < LEAST_ROOM

"""Where fetched files are kept, for all projects of a user."""

import os
from pathlib import Path
from typing import Literal

VARIABLE = "TTL_CACHE"


def cache_folder(part: Literal["data", "weights", "releases"]) -> Path:
    """Return the folder of one kind of fetched files, under `TTL_CACHE` or `~/.cache/ttl`."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "ttl") / part

"""DVC's commands as the flows use them, and the cache that all clones on a machine share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ttl.cache import cache_folder
from ttl.errors import DataError, ServiceError
from ttl.layout import Layout

PATIENCE = 6 * 3600.0
"""Seconds after which a command of DVC is taken to hang."""


def pointer(layout: Layout, name: str) -> Path:
    """Return the file by which git knows a dataset that grows by drops."""
    return layout.datasets / f"{name}.dvc"


def machine_cache() -> Path:
    """Return the folder of DVC's cache that all clones on this machine share."""
    cache = cache_folder("data") / "dvc"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def use_machine_cache(layout: Layout) -> None:
    """Have a clone use the machine's cache: whoever comes second finds all of a dataset in it."""
    cache = machine_cache()
    # Two may share a folder, and its configuration.
    with dvc_lock():
        run_dvc(layout.root, "config", "--local", "cache.dir", str(cache.resolve()))
        run_dvc(layout.root, "config", "--local", "cache.type", "reflink,hardlink,symlink,copy")
        if not (layout.root / ".git").exists():
            run_dvc(layout.root, "config", "--local", "core.no_scm", "true")


@contextmanager
def dvc_lock() -> Iterator[None]:
    """Keep others on this machine from its cache. Raises `ServiceError` if one holds it beyond `PATIENCE`."""
    path = machine_cache().with_name("dvc.lock")
    try:
        with FileLock(path, timeout=PATIENCE):
            yield
    except Timeout as error:
        raise ServiceError(
            f"another process has held {path} for more than {PATIENCE:.0f} s; see which of them hangs"
        ) from error


def run_dvc(root: Path, *arguments: str) -> None:
    """Run DVC. Raises `ServiceError` for what may pass by itself, `DataError` for what does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=root,
            env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(
            f"`dvc {' '.join(arguments)}` was ended: it had run for {PATIENCE:.0f} s"
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it left no message"]
        lines = [line for line in said if line.startswith("ERROR")] or said
        text = f"`dvc {' '.join(arguments)}` failed: {lines[0][:300]}"
        if any(words in done.stderr for words in _FOR_GOOD):
            raise DataError(f"{text}; `dvc push` what the sweep is to use, and check AWS_*")
        raise ServiceError(text)


_FOR_GOOD = (
    "missing cache files",
    "do not exist neither locally nor on remote",
    "Forbidden",
    "InvalidAccessKeyId",
)
"""What DVC says where trying again does not help."""

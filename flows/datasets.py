"""Datasets on a machine that has only the repository: pulled by DVC, by revision, once for each machine."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

from ttl.cache import cache_folder
from ttl.data.dataset import PackedDataset
from ttl.errors import DataError, ServiceError
from ttl.layout import Layout


def make_available(layout: Layout, revisions: dict[str, str], *, shared: bool) -> None:
    """Have these datasets in `data/packed`, at these revisions; in a `shared` folder they are there already.

    Raises `DataError` for one that the repository has at another revision.
    """
    for name, revision in revisions.items():
        if not shared:
            pull(layout, name)
        found = PackedDataset.open(layout.datasets / name).revision
        if found != revision:
            raise DataError(
                f"{name} is wanted at revision {revision}, and dvc.lock gives {found} on this machine; "
                "`dvc push` and `git push` what the sweep is to use"
            )


@functools.cache
def pull(layout: Layout, name: str) -> None:
    """Have a dataset in `data/packed` as dvc.lock has it, from DVC's remote; DVC's cache is the machine's.

    Raises `DataError` where dvc.lock does not know it, `ServiceError` where it cannot be pulled.
    """
    place = (layout.datasets / name).relative_to(layout.root)
    if str(place) not in _locked(layout.root):
        raise DataError(
            f"dvc.lock in {layout.root} does not name {place}: run "
            f"`dvc repro prepare@{name}` and `dvc push`, and commit dvc.lock"
        )
    cache = cache_folder("data") / "dvc"
    cache.mkdir(parents=True, exist_ok=True)
    _dvc(layout.root, "config", "--local", "cache.dir", str(cache.resolve()))
    _dvc(layout.root, "config", "--local", "cache.type", "reflink,hardlink,symlink,copy")
    if not (layout.root / ".git").exists():
        _dvc(layout.root, "config", "--local", "core.no_scm", "true")
    # Whoever comes second finds all of it in the cache.
    with FileLock(cache.with_name("dvc.lock")):
        _dvc(layout.root, "pull", str(place))


def _locked(root: Path) -> set[str]:
    try:
        values = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    return {out["path"] for stage in values["stages"].values() for out in stage.get("outs", ())}


def _dvc(root: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it left no message"]
        raise ServiceError(f"`dvc {' '.join(arguments)}` failed: {lines[0][:300]}")

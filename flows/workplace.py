"""Where a retraining works: a clone at one commit, so that nobody's checked-out files change."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from flows.dvc import pointer, run_dvc
from flows.revisions import catch_up
from ttl.errors import ReleaseError
from ttl.layout import Layout
from ttl.params import FILE
from ttl.release import vcs


@contextmanager
def workplace(layout: Layout, name: str, *, own: bool, push: bool) -> Iterator[Layout]:
    """Give a clone of a project with the newest revision of a dataset, as the current folder meanwhile.

    A deployment's clone is its `own`, and is caught up. For a person a clone is made that shares trials and
    DVC's cache with her folder, and is gone in the end; the tags that were set in it come back to her.
    """
    if own:
        catch_up(layout, name)
        yield layout
        return
    root = vcs.find_root(layout.root)
    changed = vcs.changed_code(root)
    if changed:
        raise ReleaseError(
            f"a retraining is of a commit, and these files are not committed: {', '.join(changed[:5])}"
        )
    with tempfile.TemporaryDirectory(prefix="ttl-retrain-") as folder:
        clone = Layout(root=Path(folder) / "project")
        _clone(root, clone, name, push=push)
        with contextlib.chdir(clone.root):
            yield clone
        vcs.fetch_tags(root, str(clone.root), name)


def narrow(layout: Layout, name: str, settings: dict[str, object]) -> None:
    """Make a clone's `params.yaml` that of one retraining: one dataset, and these settings of its sweep.

    So that the release's tag says what was run, and `dvc repro` at the tag would run it again.
    """
    path = layout.root / FILE
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["prepare"] = {}
    values["intake"] = {name: values["intake"][name]}
    values["sweep"] = {**(values.get("sweep") or {}), **settings, "datasets": [name]}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _clone(root: Path, clone: Layout, name: str, *, push: bool) -> None:
    vcs.git(root, "clone", "--quiet", "--local", str(root), str(clone.root))
    origin = vcs.find_remote(root)
    if push and origin is not None:
        address = vcs.git(root, "remote", "get-url", origin)
        # A folder's address may be relative to the project, and the clone lies elsewhere.
        there = root / address
        address = str(there.resolve()) if there.exists() else address
        vcs.git(clone.root, "remote", "set-url", "origin", address)
        # The champion may be one that only others know of yet.
        vcs.fetch_tags(clone.root, "origin", name)
    local = root / ".dvc" / "config.local"
    if local.is_file():
        (clone.root / ".dvc" / "config.local").write_text(local.read_text(encoding="utf-8"), encoding="utf-8")
    for line in vcs.dvc(root, "config", "--list").splitlines():
        key, _, address = line.partition("=")
        if re.fullmatch(r"remote\..+\.url", key) and "://" not in address:
            run_dvc(clone.root, "config", "--local", key, address)
    cache = vcs.dvc(root, "cache", "dir").strip()
    run_dvc(clone.root, "config", "--local", "cache.dir", str((root / cache).resolve()))
    run_dvc(clone.root, "config", "--local", "cache.type", "reflink,hardlink,symlink,copy")
    if not pointer(clone, name).is_file():
        raise ReleaseError(f"{pointer(clone, name).name} is not committed; run `ttl intake` first")
    run_dvc(clone.root, "checkout", "--quiet", str(pointer(clone, name).relative_to(clone.root)))
    (root / "runs").mkdir(exist_ok=True)
    (clone.root / "runs").symlink_to(root / "runs")

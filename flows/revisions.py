"""Revisions of a growing dataset: a pointer committed, files and commit pushed, against others who do so."""

import logging
from pathlib import Path

from filelock import FileLock

from flows.dvc import machine_cache, pointer, run_dvc, use_machine_cache
from ttl.errors import ReleaseError, ServiceError
from ttl.layout import Layout
from ttl.release import vcs

logger = logging.getLogger(__name__)

RACED = ("non-fast-forward", "fetch first", "cannot lock ref", "reference already", "incorrect old value")
"""What git says when somebody else has pushed meanwhile."""


def catch_up(layout: Layout, name: str) -> None:
    """Bring a clone that nobody else works in to the newest commit of its branch, and the dataset with it.

    What an attempt that died has left in it goes.
    """
    root = layout.root
    remote, branch = vcs.find_remote(root), vcs.git(root, "rev-parse", "--abbrev-ref", "HEAD")
    if remote is not None:
        _git_service(root, "fetch", "--quiet", remote, branch)
        vcs.git(root, "reset", "--hard", "--quiet", "FETCH_HEAD")
    use_machine_cache(layout)
    if pointer(layout, name).is_file():
        with FileLock(machine_cache().with_name("dvc.lock")):
            run_dvc(root, "pull", "--force", str(pointer(layout, name).relative_to(root)))


def publish(layout: Layout, name: str, message: str, *, push: bool) -> bool:
    """Commit a dataset as it lies in `data/packed`, and push files and commit; return whether that is done.

    False says that somebody else has pushed meanwhile: catch up, and begin again. It may be repeated at
    will: what is committed and pushed already is left alone, so that whoever died in between only runs it
    again. Files go before the commit that points to them, so that no commit points to nothing.
    """
    root, path = layout.root, pointer(layout, name).relative_to(layout.root)
    with FileLock(machine_cache().with_name("dvc.lock")):
        run_dvc(root, "add", "--quiet", str((layout.datasets / name).relative_to(root)))
    if push:
        run_dvc(root, "push", "--quiet", str(path))
    vcs.git(root, "add", "--force", "--", str(path))
    if vcs.attempt_git(root, "diff", "--cached", "--quiet", "--", str(path)).returncode:
        identity = vcs.find_identity(root).environment()
        vcs.git(root, "commit", "--quiet", "--message", message, "--only", "--", str(path), env=identity)
    return _push(root) if push else True


def newest_commit(layout: Layout, name: str) -> str:
    """Return the commit that made a growing dataset what it is."""
    path = pointer(layout, name).relative_to(layout.root)
    return vcs.git(layout.root, "log", "-1", "--format=%H", "--", str(path))


def revisions(layout: Layout, name: str) -> int:
    """Return how many revisions a growing dataset has had."""
    path = pointer(layout, name).relative_to(layout.root)
    return int(vcs.git(layout.root, "rev-list", "--count", "HEAD", "--", str(path)))


def _push(root: Path) -> bool:
    remote, branch = vcs.find_remote(root), vcs.git(root, "rev-parse", "--abbrev-ref", "HEAD")
    if remote is None:
        raise ReleaseError(
            "the new revision is committed in this clone alone: no git remote is configured "
            "(`git remote add origin …`), or give push: false"
        )
    done = vcs.attempt_git(root, "push", "--quiet", remote, f"HEAD:refs/heads/{branch}")
    if done.returncode and any(words in done.stderr for words in RACED):
        logger.warning("somebody else has pushed to %s of %s meanwhile; beginning anew", branch, remote)
        return False
    if done.returncode:
        raise ServiceError(f"pushing {branch} to {remote} failed: {vcs.last_words(done.stderr)}")
    return True


def _git_service(root: Path, *arguments: str) -> None:
    """Run git against a server, whose silence may pass."""
    done = vcs.attempt_git(root, *arguments)
    if done.returncode:
        raise ServiceError(f"`git {' '.join(arguments)}` failed: {vcs.last_words(done.stderr)}")

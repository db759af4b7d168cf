"""Revisions of a growing dataset: a pointer committed, files and commit pushed, against others who do so."""

import datetime
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.dvc import dvc_lock, pointer, run_dvc, use_machine_cache
from ttl.errors import ReleaseError, ServiceError
from ttl.intake.received import Taken
from ttl.layout import Layout
from ttl.release import vcs

logger = logging.getLogger(__name__)

DROP = re.compile(r"^Drop: ([0-9a-f]{64})$", re.MULTILINE)
REVISION = re.compile(r"^Revision: ([0-9a-f]{16})$", re.MULTILINE)

RACED = ("non-fast-forward", "fetch first", "cannot lock ref", "reference already", "incorrect old value")
"""What git says when somebody else has pushed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit of a growing dataset's pointer: its hash, when it was made, and what its message says.

    `drops` are the digests of the drops that it took, none where it does not say; `revision` is the
    dataset's, empty where it does not say.
    """

    hash: str
    made_at: datetime.datetime
    drops: frozenset[str]
    revision: str

    @property
    def silent(self) -> bool:
        """Whether it does not say what it took, as none did once, and none does that was made by hand."""
        return not (self.drops or self.revision)

    @classmethod
    def parse(cls, text: str) -> "Commit":
        """Return the commit whose hash, date and message are the lines of a text."""
        hashed, date, body = text.split("\n", 2)
        revision = REVISION.findall(body)
        return cls(
            hash=hashed,
            made_at=datetime.datetime.fromisoformat(date),
            drops=frozenset(DROP.findall(body)),
            revision=revision[-1] if revision else "",
        )


def message_of(name: str, drops: Sequence[Taken], revision: str) -> str:
    """Return the message of a commit that takes drops: what `Commit` reads out of it again."""
    title = ", ".join(f"{one.site}/{one.drop}" for one in drops) or "no new drop"
    lines = [*(f"Drop: {one.digest}" for one in drops), f"Revision: {revision}"]
    return f"{name}: {title}\n\n" + "\n".join(lines)


def commits(root: Path, name: str) -> list[Commit]:
    """Return the commits that made a growing dataset what it is in a repository, the newest first."""
    path = pointer(Layout(root=root), name).relative_to(root)
    log = vcs.git(root, "log", "--format=%x1e%H%n%cI%n%B", "--", str(path))
    return [Commit.parse(text) for text in log.split("\x1e")[1:]]


def is_committed(drop: Taken, history: Iterable[Commit]) -> bool:
    """Return whether a drop is in one of some commits.

    One that does not say which drops it took has taken what was received before.
    """
    return any(drop.received_at <= one.made_at if one.silent else drop.digest in one.drops for one in history)


def taking_commit(root: Path, name: str, digest: str) -> str:
    """Return the commit that took a drop, by the digest of its manifest; empty if there is none.

    Of several that say so the first. Where none does, the drop came when commits did not say it yet: in the
    newest of these at the latest, or else in the newest of all.
    """
    history = commits(root, name)
    takes = [one.hash for one in history if digest in one.drops]
    if takes:
        return takes[-1]
    silent = [one.hash for one in history if one.silent] or [one.hash for one in history]
    return silent[0] if silent else ""


def catch_up(layout: Layout, name: str) -> None:
    """Bring a clone that nobody else works in to the newest commit of its branch, and the dataset with it.

    What an attempt that died has left in it goes.
    """
    fetch_commits(layout)
    pull_newest(layout, name)


def fetch_commits(layout: Layout) -> None:
    """Bring a clone that nobody else works in to the newest commit of its branch, with its whole history."""
    root = layout.root
    remote, branch = vcs.find_remote(root), vcs.git(root, "rev-parse", "--abbrev-ref", "HEAD")
    if remote is None:
        return
    if vcs.git(root, "rev-parse", "--is-shallow-repository") == "true":
        # The messages of earlier commits say which drops were taken; the gate asks which came first.
        _git_service(root, "fetch", "--quiet", "--unshallow", "--tags", remote)
    _git_service(root, "fetch", "--quiet", remote, branch)
    vcs.git(root, "reset", "--hard", "--quiet", "FETCH_HEAD")


def pull_newest(layout: Layout, name: str) -> None:
    """Have a growing dataset in `data/packed` as the commit that is checked out has it."""
    root = layout.root
    use_machine_cache(layout)
    if pointer(layout, name).is_file():
        with dvc_lock():
            run_dvc(root, "pull", "--force", str(pointer(layout, name).relative_to(root)))


def publish(layout: Layout, name: str, message: str, *, push: bool) -> bool:
    """Commit a dataset as it lies in `data/packed`, and push files and commit; return whether that is done.

    False says that somebody else has pushed meanwhile: catch up, and begin again. It may be repeated at
    will: what is committed and pushed already is left alone, so that whoever died in between only runs it
    again. Files go before the commit that points to them, so that no commit points to nothing.
    """
    root, path = layout.root, pointer(layout, name).relative_to(layout.root)
    with dvc_lock():
        run_dvc(root, "add", "--quiet", str((layout.datasets / name).relative_to(root)))
    if push:
        run_dvc(root, "push", "--quiet", str(path))
    vcs.git(root, "add", "--force", "--", str(path))
    if vcs.attempt_git(root, "diff", "--cached", "--quiet", "--", str(path)).returncode:
        identity = vcs.find_identity(root).environment()
        vcs.git(root, "commit", "--quiet", "--message", message, "--only", "--", str(path), env=identity)
    return _push(root) if push else True


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

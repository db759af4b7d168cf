"""The few git and DVC commands that a release needs, run as commands: ttl imports neither."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttl.errors import ReleaseError, ServiceError

POINTERS = ("dvc.lock", "dvc.yaml", "params.yaml", ".dvc/config", ".dvcignore", ".gitignore")
"""What a release commits from the working tree: the parameters, and the pointers to data and models."""

CODE = ("ttl", "flows")
"""Folders whose untracked files would be missing from a release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who makes commits and tags."""

    name: str
    email: str

    def environment(self) -> dict[str, str]:
        """Return git's variables for this identity."""
        return {
            "GIT_AUTHOR_NAME": self.name,
            "GIT_AUTHOR_EMAIL": self.email,
            "GIT_COMMITTER_NAME": self.name,
            "GIT_COMMITTER_EMAIL": self.email,
        }


NOBODY = Identity(name="ttl", email="ttl@localhost")


def attempt_git(
    repo: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run git in `repo` and return its exit status and output, whatever they are."""
    # Error messages are read below, so they must not be translated; and nothing may wait for a password.
    fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(repo), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **fixed, **(env or {})},
        )
    except FileNotFoundError as error:
        raise ReleaseError("git is not installed; releases are git tags, so install it first") from error


def git(repo: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run git in `repo` and return its output; `ReleaseError` with git's words when it fails."""
    done = attempt_git(repo, *arguments, env=env)
    if done.returncode:
        raise ReleaseError(f"`git {' '.join(arguments)}` failed: {last_words(done.stderr or done.stdout)}")
    return done.stdout.rstrip("\n")


def attempt_dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in `folder` and return its exit status and output, whatever they are."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"},
    )


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC in `folder` and return its output; `ReleaseError` with DVC's words when it fails."""
    done = attempt_dvc(folder, *arguments)
    if done.returncode:
        raise ReleaseError(f"`dvc {' '.join(arguments)}` failed: {last_words(done.stderr or done.stdout)}")
    return done.stdout


def last_words(text: str) -> str:
    """Return the last lines of a command's messages, which say why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it gave no reason"


def find_root(folder: Path) -> Path:
    """Return the root of the repository that holds `folder`; it must be under git and DVC."""
    done = attempt_git(folder, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise ReleaseError(f"{folder} is not in a git repository; releases are kept as git tags")
    root = Path(done.stdout.strip())
    if not (root / ".dvc").is_dir():
        raise ReleaseError(f"{root} is not a DVC repository (it has no .dvc); run `dvc init` in it")
    if attempt_git(root, "rev-parse", "--verify", "--quiet", "HEAD").returncode:
        raise ReleaseError(f"{root} has no commit yet; commit the code first, then release")
    return root


def find_identity(repo: Path) -> Identity:
    """Return the identity that the environment or git's configuration gives, else a stand-in."""
    found = [
        os.environ.get(f"GIT_COMMITTER_{key.upper()}")
        or attempt_git(repo, "config", f"user.{key}").stdout.strip()
        for key in ("name", "email")
    ]
    return Identity(name=found[0] or NOBODY.name, email=found[1] or NOBODY.email)


def find_remote(repo: Path) -> str | None:
    """Return `origin`, or the only git remote there is, or nothing."""
    remotes = git(repo, "remote").split()
    if "origin" in remotes:
        return "origin"
    return remotes[0] if len(remotes) == 1 else None


def has_dvc_remote(repo: Path) -> bool:
    """Return whether DVC has a default remote to push to."""
    return bool(attempt_dvc(repo, "config", "core.remote").stdout.strip())


def changed_code(repo: Path) -> list[str]:
    """Return what a release would miss: changed tracked files that are no pointers, and untracked code."""
    listing = git(repo, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    changed = []
    for entry in filter(None, listing.split("\0")):
        state, path = entry[:2], entry[3:]
        if path in POINTERS or (state == "??" and path.split("/")[0] not in CODE):
            continue
        changed.append(path)
    return changed


def pointer_tree(repo: Path, paths: Iterable[str] = POINTERS) -> str:
    """Return git's hash of HEAD's files with `paths` as they are in the working tree."""
    with tempfile.TemporaryDirectory(prefix="ttl-release-") as folder:
        # An index of its own leaves the caller's index as it is.
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(repo, "read-tree", "HEAD", env=env)
        git(repo, "update-index", "--add", "--remove", "--", *paths, env=env)
        return git(repo, "write-tree", env=env)


def commit_tree(repo: Path, tree: str, message: str, identity: Identity) -> str:
    """Commit a tree on top of HEAD, and return the commit's hash; HEAD itself if it has that tree.

    The branch, the index and the files stay as they are: the commit belongs to no branch, a tag keeps it.
    """
    if tree == git(repo, "rev-parse", "HEAD^{tree}"):
        return git(repo, "rev-parse", "HEAD")
    return git(repo, "commit-tree", tree, "-p", "HEAD", "-m", message, env=identity.environment())


def fetch_tags(repo: Path, remote: str, dataset: str) -> None:
    """Bring the remote's release tags of a dataset here.

    Raises `ServiceError` where the remote does not answer, `ReleaseError` for a tag that it has otherwise.
    """
    specs = [f"refs/tags/{dataset}{mark}*:refs/tags/{dataset}{mark}*" for mark in "@#"]
    command = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, *specs)
    done = attempt_git(repo, *command)
    if "would clobber" in done.stderr:
        raise ReleaseError(f"a release tag differs here and in {remote}: {last_words(done.stderr)}")
    if done.returncode:
        raise ServiceError(f"the tags of {remote} cannot be fetched: {last_words(done.stderr)}")


def update_tags(repo: Path, dataset: str) -> None:
    """Bring the release tags of a dataset here that others have set, where there is a remote."""
    remote = find_remote(repo)
    if remote is not None:
        fetch_tags(repo, remote, dataset)


def push_tag(repo: Path, remote: str, tag: str, once: str | None = None) -> bool:
    """Push a tag, with a mark of the name `once` if given; False if the remote has another of either name.

    The mark is a tag of an empty commit, the same whenever it is made for the same tag. Raises `ServiceError`
    for any other failure.
    """
    command = ["push", "--quiet", remote, f"refs/tags/{tag}:refs/tags/{tag}"]
    if once is not None:
        command = ["push", "--quiet", "--atomic", *command[2:], f"{_mark(repo, tag)}:refs/tags/{once}"]
    done = attempt_git(repo, *command)
    if done.returncode == 0:
        return True
    # All but the first are of a push that lost a race inside the server.
    if any(reason in done.stderr for reason in ("already exists", "cannot lock ref", "reference already")):
        return False
    raise ServiceError(f"pushing tag {tag} to {remote} failed: {last_words(done.stderr)}")


def _mark(repo: Path, tag: str) -> str:
    """Return the hash of a commit that stands for a tag, and holds on to nothing."""
    nothing = git(repo, "hash-object", "-w", "-t", "tree", "/dev/null")
    text = f"{tag} {git(repo, 'rev-parse', f'refs/tags/{tag}')}"
    then = {f"GIT_{role}_DATE": "2000-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}
    return git(repo, "commit-tree", nothing, "-m", text, env={**NOBODY.environment(), **then})


def is_pushed(repo: Path, remote: str, tag: str) -> bool:
    """Return whether the remote has the tag."""
    return bool(git(repo, "ls-remote", "--tags", remote, f"refs/tags/{tag}"))

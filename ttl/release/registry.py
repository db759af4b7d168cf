"""The registry: a release is a git tag on a commit that holds every pointer of its model."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from gto.versions import SemVer

from ttl.errors import ReleaseError
from ttl.release import tags, vcs
from ttl.release.checks import MODELS, check_model, check_restorable
from ttl.release.description import DESCRIPTION, Description, fingerprint
from ttl.release.tags import Event

Stage = Literal["challenger", "champion"]
STAGES: tuple[Stage, ...] = ("challenger", "champion")
LOCK_SECONDS = 120

NAME = re.compile(r"(?P<dataset>[^@#]+)(?:@(?P<version>.+)|#(?P<stage>.+))?")
VERSION = re.compile(r"v?(\d+\.\d+\.\d+)")
FACTS = re.compile(r"^(Network|Parameters|Trial|Dataset-Revision|Model): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A registered version of a dataset's model.

    `stages` are those whose latest assignment is this version. `model` is the fingerprint of weights and
    description. `notes` say what was left out, such as a push without a remote.
    """

    dataset: str
    version: str
    tag: str
    commit: str
    when: datetime
    author: str
    stages: tuple[str, ...]
    network: str
    params: int | None
    trial_id: str
    revision: str
    model: str
    notes: tuple[str, ...] = ()


def release(
    dataset: str,
    *,
    repo: Path,
    version: str | None = None,
    push: bool = False,
    message: str = "",
    beside: Sequence[str] = (),
) -> Release:
    """Register `models/<dataset>` as a new version and assign it the stage `challenger`.

    The tagged commit holds HEAD's code and the working tree's pointers (dvc.lock, dvc.yaml, params.yaml,
    DVC's configuration), and the files `beside`, relative to the root; nothing checked out changes. With
    `push`, the files go to DVC's remote first, then the tags to the git remote; when a push fails, its tag is
    taken back. Raises `ReleaseError` when the tag could not bring everything back, or when this very model is
    registered already.
    """
    root = vcs.find_root(repo)
    description = check_model(root, dataset)
    wanted = _parse_version(version)
    model = fingerprint(root / MODELS / dataset)
    with _lock(root):
        remote, dvc_remote, notes = _find_remotes(root, push)
        if remote:
            # Another clone may have released this very model, or this one, and never heard the answer.
            vcs.fetch_tags(root, remote, dataset)
        known = next((r for r in models(repo=root) if r.dataset == dataset and r.model == model), None)
        if known:
            return replace(_complete(root, known, remote, dvc_remote), notes=notes)
        paths = (*vcs.POINTERS, *beside)
        tree = vcs.pointer_tree(root, paths)
        check_restorable(root, dataset)
        if dvc_remote:
            vcs.dvc(root, "push")
        if vcs.pointer_tree(root, paths) != tree:
            raise ReleaseError("dvc.lock or the parameters changed during the release; run it again")
        title = f"Release {dataset}: {description.network}"
        commit = vcs.commit_tree(root, tree, title, vcs.find_identity(root))
        text = "\n\n".join(filter(None, [title, message, _facts(description, model)]))
        tag = tags.publish(root, dataset, remote, partial(tags.register, root, dataset, commit, wanted, text))
        assert tag is not None
        _challenge(root, dataset, tag, remote)
        return replace(_find_tag(root, tag), notes=notes)


def assign(
    name: str,
    stage: str,
    *,
    repo: Path,
    push: bool = False,
    message: str = "",
    check: Callable[[], bool] = lambda: True,
) -> Release:
    """Assign a stage to a release, with the reasons in the tag's message.

    `name` is `dataset@version` or `dataset#stage`; a dataset alone stands for its newest version. `check`
    says whether that is still to be done. It is asked while no other process of this clone changes the
    registry, after the others' tags were fetched, and again whenever another clone was faster.
    """
    if stage not in STAGES:
        raise ReleaseError(f"no stage is called {stage!r}; there are: {', '.join(STAGES)}")
    root = vcs.find_root(repo)
    with _lock(root):
        remote, _, notes = _find_remotes(root, push)
        if remote:
            vcs.fetch_tags(root, remote, _dataset_of(name))
        newest = next((known for known in models(repo=root) if known.dataset == name), None)
        chosen = newest or find(name, repo=root)
        if not check():
            return replace(chosen, notes=notes)
        _check_pushed(root, remote, chosen)
        if stage in chosen.stages:
            if remote:
                _push_all(root, chosen, remote)
                raise ReleaseError(f"{chosen.tag} is {stage} already, here and in {remote}")
            raise ReleaseError(f"{chosen.tag} is {stage} already; nothing was done")
        text = message or f"Assign {stage} to {chosen.tag}"
        step = partial(tags.assign, root, chosen.dataset, chosen.version, stage, text)
        tags.publish(root, chosen.dataset, remote, lambda: step() if check() else None)
        return replace(_find_tag(root, chosen.tag), notes=notes)


def withdraw(
    name: str,
    stage: str,
    *,
    repo: Path,
    push: bool = False,
    message: str = "",
    check: Callable[[], bool] = lambda: True,
) -> None:
    """Take a stage from the release `dataset@version`, with the reasons in the tag's message.

    They are recorded for a stage too that the release does not have. `check` is as in `assign`.
    """
    root = vcs.find_root(repo)
    with _lock(root):
        remote, _, _ = _find_remotes(root, push)
        chosen = find(name, repo=root)
        _check_pushed(root, remote, chosen)
        step = partial(tags.unassign, root, chosen.dataset, chosen.version, stage, message)
        tags.publish(root, chosen.dataset, remote, lambda: step() if check() else None)


def push(event: Event, *, repo: Path) -> None:
    """Push the tag of an event to the git remote, if there is one."""
    root = vcs.find_root(repo)
    with _lock(root):
        remote = vcs.find_remote(root)
        if remote:
            _push(root, remote, event)


def models(*, repo: Path) -> list[Release]:
    """Return every registered version, by dataset, the newest version first."""
    registered: dict[tuple[str, str], Event] = {}
    live: dict[tuple[str, str | None], str] = {}
    for event in history(repo=repo):
        match event.action:
            case "registration":
                registered[event.dataset, event.version] = event
            case "deregistration":
                registered.pop((event.dataset, event.version), None)
            case "assignment":
                live[event.dataset, event.stage] = event.version
            case "unassignment" if live.get((event.dataset, event.stage)) == event.version:
                del live[event.dataset, event.stage]
    releases = [
        _from_event(event, tuple(stage for stage in STAGES if live.get((dataset, stage)) == version))
        for (dataset, version), event in registered.items()
    ]
    releases.sort(key=lambda known: SemVer.parse(known.version), reverse=True)
    return sorted(releases, key=lambda known: known.dataset)


def history(*, repo: Path, dataset: str | None = None) -> list[Event]:
    """Return what was registered and assigned, when and by whom, the oldest first."""
    return tags.read_events(vcs.find_root(repo), dataset)


def find(name: str, *, repo: Path) -> Release:
    """Return the release that `dataset`, `dataset@version` or `dataset#stage` names.

    A dataset alone stands for its champion, or for its newest version while it has no champion.
    """
    root = vcs.find_root(repo)
    match, dataset = NAME.fullmatch(name), _dataset_of(name)
    releases = [known for known in models(repo=root) if known.dataset == dataset]
    if not match or not releases:
        raise ReleaseError(
            f"no release is called {name!r} in {root}, nor is there such a folder; `ttl models` lists the "
            f"releases, and a model that is not released is named by its folder, {MODELS}/<dataset>"
        )
    if match["version"]:
        wanted = _parse_version(match["version"])
        matches = [known for known in releases if known.version == wanted]
    else:
        matches = [known for known in releases if (match["stage"] or "champion") in known.stages]
        if not match["stage"]:
            matches = matches or releases
    if not matches:
        there = ", ".join(" ".join([known.version, *known.stages]) for known in releases)
        raise ReleaseError(f"no release is called {name!r}; of {dataset} there are: {there}")
    return matches[0]


def fetch(name: str, folder: Path, *, repo: Path) -> Path:
    """Bring a release's files from DVC's cache or remote into `folder`, and return where they lie.

    Their folder's name holds the commit: what is there already is never stale, and is not fetched again.
    """
    root = vcs.find_root(repo)
    chosen = find(name, repo=root)
    target = folder.absolute() / f"{chosen.dataset.replace('/', '-')}-{chosen.version}-{chosen.commit[:12]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock"), timeout=LOCK_SECONDS):
        if not (target / DESCRIPTION).is_file():
            partly = target.with_name(f".{target.name}.partial")
            path = f"{MODELS}/{chosen.dataset}"
            vcs.dvc(
                root,
                "get",
                str(root),
                path,
                "--rev",
                chosen.commit,
                "--out",
                str(partly),
                "--force",
                "--quiet",
            )
            partly.replace(target)
    return target


def _complete(root: Path, known: Release, remote: str | None, dvc_remote: bool) -> Release:
    """Do for a registered model what an earlier release left undone: pushing it, or its first stage."""
    staged = any(
        event.version == known.version and event.stage for event in history(repo=root, dataset=known.dataset)
    )
    pushed = remote is None or vcs.is_pushed(root, remote, known.tag)
    if staged and pushed:
        raise ReleaseError(
            f"this model of {known.dataset} is released already: {known.tag}, on {known.when:%Y-%m-%d}; "
            "nothing was done"
        )
    if remote and not pushed:
        if dvc_remote:
            vcs.dvc(root, "push")
        _push_all(root, known, remote)
    if not staged:
        _challenge(root, known.dataset, known.tag, remote)
    return _find_tag(root, known.tag)


def _push_all(root: Path, known: Release, remote: str) -> None:
    for event in history(repo=root, dataset=known.dataset):
        if event.version == known.version:
            _push(root, remote, event)


def _push(root: Path, remote: str, event: Event) -> None:
    if not tags.push(root, remote, event):
        raise ReleaseError(
            f"{remote} has another {event.tag} than this repository, or another decision on the version; "
            f"delete the tag here (`git tag --delete '{event.tag}'`), fetch, and do this again"
        )


def _check_pushed(root: Path, remote: str | None, chosen: Release) -> None:
    """Raise `ReleaseError` for a release of which others would have a stage, and nothing else."""
    if remote is not None and not vcs.is_pushed(root, remote, chosen.tag):
        raise ReleaseError(
            f"{chosen.tag} is in this clone alone; put it and its files where the others have them "
            f"(`dvc push --all-tags`, `git push {remote} '{chosen.tag}'`), and do this again"
        )


def _challenge(root: Path, dataset: str, tag: str, remote: str | None) -> None:
    version, text = tag.rpartition("@")[2], f"Assign challenger to {tag}"
    tags.publish(root, dataset, remote, partial(tags.assign, root, dataset, version, "challenger", text))


def _find_tag(root: Path, tag: str) -> Release:
    return next(known for known in models(repo=root) if known.tag == tag)


def _find_remotes(root: Path, push: bool) -> tuple[str | None, bool, tuple[str, ...]]:
    """Return the git remote and whether there is a DVC remote, none if nothing is to be pushed; and notes."""
    if not push:
        return None, False, ()
    remote, dvc_remote = vcs.find_remote(root), vcs.has_dvc_remote(root)
    notes = []
    if not remote:
        notes.append(
            "no git remote is configured (`git remote add origin …`): the tags are in this clone alone"
        )
    if not dvc_remote:
        notes.append("no DVC remote is configured (`dvc remote add --default …`): the files are here alone")
    return remote, dvc_remote, tuple(notes)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Keep two releases of one clone apart."""
    folder = Path(vcs.git(root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    lock = FileLock(folder / "ttl-release.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise ReleaseError(f"another release has been going on in {root} for {LOCK_SECONDS} s") from error
    try:
        yield
    finally:
        lock.release()


def _dataset_of(name: str) -> str:
    match = NAME.fullmatch(name)
    return match["dataset"] if match else name


def _parse_version(version: str | None) -> str | None:
    if version is None:
        return None
    match = VERSION.fullmatch(version)
    if not match:
        raise ReleaseError(f"{version!r} is not a version; one looks like v1.0.0")
    return f"v{match[1]}"


def _facts(description: Description, model: str) -> str:
    return (
        f"Network: {description.network}\nParameters: {description.params}\nTrial: {description.trial_id}\n"
        f"Dataset-Revision: {description.revision}\nModel: {model}"
    )


def _from_event(event: Event, stages: tuple[str, ...]) -> Release:
    facts = dict(FACTS.findall(event.message))
    return Release(
        dataset=event.dataset,
        version=event.version,
        tag=event.tag,
        commit=event.commit,
        when=event.when,
        author=event.author,
        stages=stages,
        network=facts.get("Network", ""),
        params=int(facts["Parameters"]) if facts.get("Parameters", "").isdigit() else None,
        trial_id=facts.get("Trial", ""),
        revision=facts.get("Dataset-Revision", ""),
        model=facts.get("Model", ""),
    )

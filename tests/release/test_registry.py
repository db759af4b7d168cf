import filecmp
from pathlib import Path

import pytest

from tests.release.helpers import run, write_model
from ttl.errors import ReleaseError, ServiceError
from ttl.release import vcs
from ttl.release.description import read_description
from ttl.release.registry import assign, fetch, find, history, models, release
from ttl.release.vcs import NOBODY


def retrain(repo: Path, content: str, dataset: str = "phantom") -> None:
    write_model(repo / "models" / dataset, content)
    run(repo, "dvc", "commit", "-q", "--force", "sweep")


def state(repo: Path) -> tuple[str, str, bytes]:
    head = run(repo, "git", "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    return head, run(repo, "git", "status", "--porcelain"), (repo / ".git" / "index").read_bytes()


def test_first_release_tags_a_commit_and_touches_nothing_checked_out(repo: Path) -> None:
    retrain(repo, "better")
    (repo / "params.yaml").write_text("sweep:\n  seeds: [0]\nreport: {}\n")
    before = state(repo)
    made = release("phantom", repo=repo)
    assert state(repo) == before
    assert (made.tag, made.version, made.stages) == ("phantom@v1.0.0", "v1.0.0", ("challenger",))
    assert (made.network, made.params) == ("efficientnet_lite0 ttl blocks.2", 55586)
    assert (made.trial_id, made.revision) == ("0123456789abcdef", "f00d")
    assert made.author == f"{NOBODY.name} <{NOBODY.email}>"
    assert run(repo, "git", "rev-parse", f"{made.tag}^{{commit}}^") == run(repo, "git", "rev-parse", "HEAD")
    changed = run(repo, "git", "diff", "--name-only", "HEAD", made.tag).split()
    assert changed == ["dvc.lock", "params.yaml"]
    assert run(repo, "git", "show", f"{made.tag}:dvc.lock") == (repo / "dvc.lock").read_text().strip()


def test_without_a_difference_head_itself_is_tagged_also_when_detached(repo: Path) -> None:
    run(repo, "git", "checkout", "-q", "--detach")
    made = release("phantom", repo=repo / "models")
    assert made.commit == run(repo, "git", "rev-parse", "HEAD")


def test_same_model_is_not_released_twice(repo: Path) -> None:
    release("phantom", repo=repo)
    retrain(repo, "of another dataset", "second")
    with pytest.raises(ReleaseError, match=r"released already: phantom@v1\.0\.0"):
        release("phantom", repo=repo)
    assert [event.action for event in history(repo=repo)] == ["registration", "assignment"]
    assert release("second", repo=repo).tag == "second@v1.0.0"


def test_versions_stages_and_history(repo: Path) -> None:
    for content in ("one", "two", "three"):
        retrain(repo, content)
        release("phantom", repo=repo, message=f"Because {content}.")
    assert [(known.version, known.stages) for known in models(repo=repo)] == [
        ("v1.0.2", ("challenger",)),
        ("v1.0.1", ()),
        ("v1.0.0", ()),
    ]
    assert find("phantom", repo=repo).version == "v1.0.2"
    assign("phantom@1.0.0", "champion", repo=repo, message="Approved by A. Person")
    assert find("phantom", repo=repo).version == "v1.0.0"
    assign("phantom", "champion", repo=repo)
    assert find("phantom#champion", repo=repo).version == "v1.0.2"
    assert find("phantom@v1.0.1", repo=repo).stages == ()
    approval = next(event for event in history(repo=repo) if event.stage == "champion")
    assert (approval.version, approval.message) == ("v1.0.0", "Approved by A. Person")
    # Eleven assignments, some within one second: the last counts, not the one that sorts last as text.
    for _ in range(3):
        assign("phantom@v1.0.1", "champion", repo=repo)
        assign("phantom@v1.0.0", "champion", repo=repo)
    assert find("phantom#champion", repo=repo).version == "v1.0.0"
    with pytest.raises(ReleaseError, match="champion already"):
        assign("phantom@v1.0.0", "champion", repo=repo)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "no release is called 'nothing'"),
        ("phantom@v9.9.9", "there are: v1.0.0 challenger"),
        ("phantom#champion", "there are: v1.0.0 challenger"),
        ("phantom@latest", "'latest' is not a version"),
    ],
)
def test_unknown_names_are_explained(repo: Path, name: str, reason: str) -> None:
    release("phantom", repo=repo)
    with pytest.raises(ReleaseError, match=reason):
        find(name, repo=repo)


def test_explicit_version(repo: Path) -> None:
    assert release("phantom", repo=repo, version="2.1.0").tag == "phantom@v2.1.0"
    retrain(repo, "next")
    with pytest.raises(ReleaseError, match=r"v2\.1\.0"):
        release("phantom", repo=repo, version="v2.1.0")
    assert release("phantom", repo=repo).version == "v2.1.1"


def test_what_a_tag_could_not_bring_back_is_refused(repo: Path) -> None:
    (repo / "ttl" / "code.py").write_text("VERSION = 2\n")
    (repo / "ttl" / "new.py").write_text("")
    (repo / "scratch.txt").write_text("not code, so no matter")
    with pytest.raises(ReleaseError, match=r"not committed.*ttl/code\.py, ttl/new\.py; commit"):
        release("phantom", repo=repo)
    run(repo, "git", "checkout", "-q", "ttl/code.py")
    (repo / "ttl" / "new.py").unlink()
    write_model(repo / "models" / "phantom", "by hand")
    with pytest.raises(ReleaseError, match=r"not what dvc\.lock records.*run `dvc repro`"):
        release("phantom", repo=repo)
    run(repo, "dvc", "checkout", "-q", "--force", "models")
    (repo / "params.yaml").write_text("sweep:\n  seeds: [0, 1]\n")
    with pytest.raises(ReleaseError, match=r"not what dvc\.lock records.*params\.yaml"):
        release("phantom", repo=repo)
    (repo / "params.yaml").write_text("sweep:\n  seeds: [0]\n")
    (repo / "data" / "pixels").write_text("other pixels")
    with pytest.raises(ReleaseError, match=r"not what dvc\.lock records.*data"):
        release("phantom", repo=repo)
    assert history(repo=repo) == []


def test_a_model_that_dvc_yaml_does_not_list_is_refused_with_the_lines_to_add(repo: Path) -> None:
    retrain(repo, "new", "third")
    with pytest.raises(ReleaseError, match="third:\n    path: models/third"):
        release("third", repo=repo)
    with pytest.raises(ReleaseError, match=r"no model of fourth.*phantom, second, third"):
        release("fourth", repo=repo)


def test_a_folder_that_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ReleaseError, match="not in a git repository"):
        models(repo=tmp_path)
    run(tmp_path, "git", "init", "-q")
    with pytest.raises(ReleaseError, match="dvc init"):
        models(repo=tmp_path)


def test_push_without_remotes_says_so(repo: Path) -> None:
    assert [note.split("(")[0].strip() for note in release("phantom", repo=repo, push=True).notes] == [
        "no git remote is configured",
        "no DVC remote is configured",
    ]


def test_a_clone_of_the_tag_brings_everything_back(repo: Path, remotes: Path, tmp_path: Path) -> None:
    retrain(repo, "better")
    made = release("phantom", repo=repo, push=True)
    assign("phantom", "champion", repo=repo, push=True)
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(remotes), "clone")
    run(clone, "git", "checkout", "-q", made.tag)
    run(clone, "dvc", "pull", "-q")
    same = filecmp.dircmp(repo / "models" / "phantom", clone / "models" / "phantom")
    assert sorted(same.same_files) == ["model.json", "model.safetensors"]
    assert not same.diff_files + same.left_only + same.right_only
    assert (clone / "data" / "pixels").read_text() == "pixels"
    assert (clone / "params.yaml").read_text() == (repo / "params.yaml").read_text()
    assert find("phantom", repo=clone).stages == ("challenger", "champion")
    # DVC's own command, for those who do not have ttl.
    run(tmp_path, "dvc", "artifacts", "get", str(remotes), "phantom", "--stage", "champion", "--out", "got")
    assert (tmp_path / "got" / "model.safetensors").read_text() == "better"


def test_fetch_brings_a_release_that_is_no_longer_checked_out(repo: Path, tmp_path: Path) -> None:
    release("phantom", repo=repo)
    retrain(repo, "later")
    release("phantom", repo=repo)
    folder = fetch("phantom@v1.0.0", tmp_path / "cache", repo=repo)
    assert (folder / "model.safetensors").read_text() == "first"
    assert read_description(folder).dataset == "phantom"
    assert fetch("phantom@v1.0.0", tmp_path / "cache", repo=repo) == folder
    assert (fetch("phantom", tmp_path / "cache", repo=repo) / "model.safetensors").read_text() == "later"


def test_two_clones_release_at_once_and_get_two_versions(repo: Path, remotes: Path, tmp_path: Path) -> None:
    run(repo, "git", "push", "-q", "origin", "main")
    other = tmp_path / "other"
    run(tmp_path, "cp", "-r", str(repo), str(other))
    retrain(other, "theirs")
    assert release("phantom", repo=other, push=True).version == "v1.0.0"
    retrain(repo, "ours")
    made = release("phantom", repo=repo, push=True)
    assert made.version == "v1.0.1"
    assert [known.version for known in models(repo=repo)] == ["v1.0.1", "v1.0.0"]
    listed = run(repo, "git", "ls-remote", "--tags", "origin", "refs/tags/phantom*")
    assert "phantom@v1.0.1" in listed
    assert "phantom#challenger#2" in listed


def test_a_push_that_fails_leaves_no_tag_and_can_be_repeated(repo: Path, remotes: Path) -> None:
    moved = remotes.rename(remotes.with_name("away.git"))
    with pytest.raises(ServiceError, match="the tags of origin cannot be fetched"):
        release("phantom", repo=repo, push=True)
    assert run(repo, "git", "tag") == ""
    moved.rename(remotes)
    release("phantom", repo=repo)
    assert release("phantom", repo=repo, push=True).tag == "phantom@v1.0.0"
    assert run(remotes, "git", "tag").split() == ["phantom#challenger#1", "phantom@v1.0.0"]
    with pytest.raises(ReleaseError, match="released already"):
        release("phantom", repo=repo, push=True)


def test_a_lost_race_takes_the_next_version(
    repo: Path, remotes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other clone pushes between our look at the remote and our push."""
    other = tmp_path / "other"
    run(tmp_path, "cp", "-r", str(repo), str(other))
    retrain(other, "theirs")
    retrain(repo, "ours")
    look, looked = vcs.fetch_tags, []

    def look_then_lose(root: Path, remote: str, dataset: str) -> None:
        look(root, remote, dataset)
        if root == repo.resolve() and not looked:
            looked.append(root)
            release("phantom", repo=other, push=True)

    monkeypatch.setattr(vcs, "fetch_tags", look_then_lose)
    assert release("phantom", repo=repo, push=True).version == "v1.0.1"
    assert looked

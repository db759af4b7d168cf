"""Revisions of a growing dataset between clones, with a real git remote and a real DVC remote."""

import datetime
import subprocess
import sys
from dataclasses import replace

import pytest

from flows.revisions import (
    catch_up,
    commits,
    is_committed,
    message_of,
    publish,
    taking_commit,
)
from tests.intake.test_append import SPEC, checked, delivery
from ttl.data.dataset import PackedDataset
from ttl.errors import ServiceError
from ttl.intake.append import append
from ttl.intake.received import taken
from ttl.layout import Layout

NAME = "toy"
DAY = datetime.timedelta(days=1)


def run(folder, *command):
    if command[0] == "dvc":
        command = (sys.executable, "-m", *command)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def clones(tmp_path, monkeypatch):
    """Two clones of one repository, with a DVC remote in a folder."""
    for name, value in {"NAME": "A", "EMAIL": "a@example.org"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    monkeypatch.setenv("TTL_CACHE", str(tmp_path / "cache"))
    origin, first = tmp_path / "origin.git", tmp_path / "first"
    run(tmp_path, "git", "init", "-q", "--bare", "-b", "main", str(origin))
    run(tmp_path, "git", "clone", "-q", str(origin), str(first))
    run(first, "git", "checkout", "-q", "-b", "main")
    run(first, "dvc", "init", "-q")
    run(first, "dvc", "remote", "add", "-q", "--default", "store", str(tmp_path / "store"))
    (first / ".gitignore").write_text("/data/?*\n!/data/packed/\n/data/packed/?*\n!/data/packed/*.dvc\n")
    run(first, "git", "add", "-A")
    run(first, "git", "commit", "-q", "-m", "start")
    run(first, "git", "push", "-q", "origin", "main")
    run(tmp_path, "git", "clone", "-q", str(origin), str(tmp_path / "second"))
    return Layout(root=first), Layout(root=tmp_path / "second")


def take(layout, drop, patients):
    (layout.datasets).mkdir(parents=True, exist_ok=True)
    at = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    append(NAME, SPEC, [delivery(drop, checked(patients), at=at)], layout.datasets / NAME)


def stored(layout):
    store = layout.root.parent / "store"
    return {path: path.stat().st_size for path in store.rglob("*") if path.is_file()}


def drops(layout):
    return sorted(one.drop for one in taken(layout.datasets / NAME))


def test_of_two_who_append_at_once_none_loses_a_drop(clones):
    one, other = clones
    take(one, "first", [f"p{i}" for i in range(40)])
    assert publish(one, NAME, "first", push=True)
    (shard,) = (one.datasets / NAME).glob("*.u8")
    size = shard.stat().st_size
    catch_up(other, NAME)
    assert drops(other) == ["first"]
    for layout in clones:
        catch_up(layout, NAME)
    take(one, "second", ["q0", "q1"])
    take(other, "third", ["r0", "r1"])
    assert publish(one, NAME, "second", push=True)
    assert not publish(other, NAME, "third", push=True), "two pushed at once, and both took it for done"
    catch_up(other, NAME)
    assert drops(other) == ["first", "second"]
    take(other, "third", ["r0", "r1"])
    assert publish(other, NAME, "third", push=True)
    catch_up(one, NAME)
    assert drops(one) == ["first", "second", "third"]
    one_revision, other_revision = (PackedDataset.open(x.datasets / NAME).revision for x in clones)
    assert one_revision == other_revision
    PackedDataset.open(one.datasets / NAME).check()
    assert commits(one.root, NAME)[0].hash == commits(other.root, NAME)[0].hash
    assert list(stored(one).values()).count(size) == 1, "what was pushed before was pushed again"


def test_what_was_appended_and_not_published_is_published_by_the_next_run(clones):
    one, other = clones
    take(one, "first", [f"p{i}" for i in range(40)])
    assert publish(one, NAME, "first", push=False)
    assert publish(one, NAME, "again", push=True)
    before = commits(one.root, NAME)[0].hash
    assert publish(one, NAME, "and again", push=True)
    assert commits(one.root, NAME)[0].hash == before, "nothing had changed"
    catch_up(other, NAME)
    assert drops(other) == ["first"]


def test_a_commit_says_which_drops_it_took(clones):
    one, _ = clones
    take(one, "first", [f"p{i}" for i in range(40)])
    (first,) = taken(one.datasets / NAME)
    assert not is_committed(first, commits(one.root, NAME))
    assert taking_commit(one.root, NAME, first.digest) == ""
    revision = PackedDataset.open(one.datasets / NAME).revision
    assert publish(one, NAME, message_of(NAME, [first], revision), push=False)
    (commit,) = commits(one.root, NAME)
    assert (commit.drops, commit.revision) == ({first.digest}, revision)
    take(one, "second", ["q0"])
    second = taken(one.datasets / NAME)[1]
    assert [is_committed(drop, [commit]) for drop in (first, second)] == [True, False]
    assert publish(one, NAME, message_of(NAME, [second], "0" * 16), push=False)
    newest = commits(one.root, NAME)[0].hash
    assert [taking_commit(one.root, NAME, x.digest) for x in (first, second)] == [commit.hash, newest]
    # A later commit that claims the drop too does not make it younger.
    take(one, "third", ["q1"])
    assert publish(one, NAME, message_of(NAME, [first], "0" * 16), push=False)
    assert taking_commit(one.root, NAME, first.digest) == commit.hash


def test_a_commit_of_before_took_what_was_received_before(clones):
    one, _ = clones
    take(one, "first", [f"p{i}" for i in range(40)])
    assert publish(one, NAME, "toy: north/first", push=False)
    silent = commits(one.root, NAME)[0].hash
    (first,) = taken(one.datasets / NAME)
    later = replace(first, digest="0" * 64, received_at=datetime.datetime.now(datetime.UTC) + DAY)
    history = commits(one.root, NAME)
    assert [is_committed(drop, history) for drop in (first, later)] == [True, False]
    take(one, "second", ["q0"])
    second = taken(one.datasets / NAME)[1]
    assert publish(one, NAME, message_of(NAME, [second], "0" * 16), push=False)
    assert taking_commit(one.root, NAME, first.digest) == silent
    assert taking_commit(one.root, NAME, second.digest) == commits(one.root, NAME)[0].hash != silent


def test_a_shallow_clone_learns_which_drops_were_taken(clones):
    one, _ = clones
    take(one, "first", [f"p{i}" for i in range(40)])
    (first,) = taken(one.datasets / NAME)
    assert publish(one, NAME, message_of(NAME, [first], "0" * 16), push=True)
    (one.root / "notes").write_text("one more commit")
    run(one.root, "git", "add", "notes")
    run(one.root, "git", "commit", "-q", "-m", "notes")
    run(one.root, "git", "push", "-q", "origin", "main")
    shallow = Layout(root=one.root.with_name("shallow"))
    origin = one.root.with_name("origin.git").as_uri()
    run(one.root.parent, "git", "clone", "-q", "--depth", "1", origin, str(shallow.root))
    catch_up(shallow, NAME)
    assert taking_commit(shallow.root, NAME, first.digest) == taking_commit(one.root, NAME, first.digest)


def test_a_remote_that_cannot_be_reached_may_pass(clones):
    one, _ = clones
    take(one, "first", [f"p{i}" for i in range(40)])
    run(one.root, "git", "remote", "set-url", "origin", str(one.root.parent / "nowhere.git"))
    with pytest.raises(ServiceError, match="pushing main to origin failed"):
        publish(one, NAME, "first", push=True)
    with pytest.raises(ServiceError, match="git fetch"):
        catch_up(one, NAME)

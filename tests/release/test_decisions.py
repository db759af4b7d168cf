"""Two proposals at once, a decision twice, another decision, and clocks that differ."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.release.helpers import run
from ttl.errors import ReleaseError
from ttl.release import registry, tags, vcs
from ttl.release.decisions import decide
from ttl.release.history import champion_version, history, message, trailers
from ttl.release.tags import Event, in_order

ADA = {"who": "Dr. Ada", "reason": "as good, and smaller"}


def propose(repo: Path, against: str | None = "none", *, gate: bool = True) -> str:
    """Register a version of a commit of its own, as the gate does, and return it."""
    who = ("-c", "user.name=A", "-c", "user.email=a@b.org")
    run(repo, "git", *who, "commit", "-q", "--allow-empty", "-m", "x")
    told = {"Rule": "ab", "Evidence": "cd"} if gate else {}
    if against is not None:
        told["Against"] = against
    head = run(repo, "git", "rev-parse", "HEAD")
    tag = tags.register(repo, "phantom", head, None, message("Proposed by the gate", told))
    version = tag.rpartition("@")[2]
    tags.assign(repo, "phantom", version, "challenger", "Assign challenger")
    return version


def say(repo: Path, version: str, decision: str = "approve", **changes: Any) -> str:
    return decide("phantom", version, repo=repo, decision=decision, **{**ADA, **changes})


def told_of(repo: Path, version: str) -> list[dict[str, str]]:
    events = registry.history(repo=repo, dataset="phantom")
    return [
        found for one in events if one.version == version and "Decision" in (found := trailers(one.message))
    ]


def test_approved_it_is_the_champion_with_the_rule_and_the_evidence_in_the_tag(repo: Path) -> None:
    version = propose(repo)
    assert say(repo, version) == "phantom@v1.0.0 is the champion, approved by Dr. Ada: as good, and smaller"
    assert champion_version("phantom", repo=repo) == version
    (live,) = history("phantom", repo=repo)
    assert (live.approved_by, live.reason, live.rule, live.evidence) == (
        ADA["who"],
        ADA["reason"],
        "ab",
        "cd",
    )


def test_a_proposal_that_was_judged_against_another_champion_is_not_approved(repo: Path) -> None:
    say(repo, propose(repo))
    second, third = propose(repo, "v1.0.0"), propose(repo, "v1.0.0")
    say(repo, third)
    with pytest.raises(
        ReleaseError, match=r"v1\.0\.1 was judged against v1\.0\.0, and v1\.0\.2 is the champion now: retrain"
    ):
        say(repo, second)
    assert champion_version("phantom", repo=repo) == third
    # Its rejection is kept all the same.
    say(repo, second, "reject")
    assert [one["Decision"] for one in told_of(repo, second)] == ["reject"]


def test_a_first_proposal_is_not_approved_once_there_is_a_champion(repo: Path) -> None:
    first, second = propose(repo), propose(repo)
    say(repo, first)
    with pytest.raises(ReleaseError, match=r"judged against no champion, and v1\.0\.0 is the champion now"):
        say(repo, second)


def test_a_decision_may_be_repeated_and_another_one_is_refused(repo: Path) -> None:
    first = propose(repo)
    say(repo, first)
    before = len(registry.history(repo=repo, dataset="phantom"))
    assert "was approved by Dr. Ada on 20" in say(repo, first, who="Dr. Bea")
    with pytest.raises(ReleaseError, match=r"was approved by Dr\. Ada on 20.*: that stands"):
        say(repo, first, "reject")
    second = propose(repo, "v1.0.0")
    assert say(repo, second, "reject", who="Dr. Bea") == (
        "phantom@v1.0.1 is rejected by Dr. Bea: as good, and smaller"
    )
    assert "was rejected by Dr. Bea" in say(repo, second, "reject")
    with pytest.raises(ReleaseError, match=r"was rejected by Dr\. Bea on 20.*: that stands"):
        say(repo, second)
    assert champion_version("phantom", repo=repo) == first
    assert len(registry.history(repo=repo, dataset="phantom")) == before + 3


def test_the_champion_is_not_rejected_and_what_nobody_judged_is_not_decided_on(repo: Path) -> None:
    version = propose(repo)
    registry.assign(f"phantom@{version}", "champion", repo=repo)
    with pytest.raises(ReleaseError, match="is the champion: `ttl models rollback phantom` goes back"):
        say(repo, version, "reject")
    by_hand = propose(repo, None, gate=False)
    with pytest.raises(ReleaseError, match="was not proposed by the gate"):
        say(repo, by_hand)
    for unseen in ("", " \u200b\n"):
        with pytest.raises(ReleaseError, match="needs the name of who decides, and a reason"):
            say(repo, version, who=unseen)
    with pytest.raises(ReleaseError, match="the decision is 'maybe'; it must be approve or reject"):
        say(repo, version, "maybe")


@pytest.fixture
def other(repo: Path, remotes: Path, tmp_path: Path) -> Path:
    """Give another clone, which has the same two proposals as the first."""
    propose(repo)
    propose(repo)
    run(repo, "git", "push", "-q", "origin", "main", "--tags")
    run(tmp_path, "git", "clone", "-q", str(remotes), "clone")
    return tmp_path / "clone"


def test_another_clone_that_has_decided_meanwhile_is_heard(repo: Path, other: Path) -> None:
    say(other, "v1.0.0", push=True)
    with pytest.raises(ReleaseError, match=r"and v1\.0\.0 is the champion now"):
        say(repo, "v1.0.1", push=True)


def meanwhile(monkeypatch: pytest.MonkeyPatch, repo: Path, do: Callable[[], object]) -> None:
    """Have something done after a clone has looked at the others' tags, and before it pushes its own."""
    push, done = vcs.push_tag, []

    def later(root: Path, *others: Any) -> bool:
        if root == repo and not done:
            done.append(do())
        return push(root, *others)

    monkeypatch.setattr(vcs, "push_tag", later)


def test_of_two_approvals_at_once_one_is_carried_out(
    repo: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, repo, lambda: say(other, "v1.0.0", push=True))
    with pytest.raises(ReleaseError, match=r"judged against no champion, and v1\.0\.0 is the champion now"):
        say(repo, "v1.0.1", push=True)
    assert champion_version("phantom", repo=repo) == "v1.0.0"
    assert not told_of(repo, "v1.0.1")


def test_of_a_rejection_and_an_approval_at_once_one_stands(
    repo: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, repo, lambda: say(other, "v1.0.0", "reject", who="Dr. Bea", push=True))
    with pytest.raises(ReleaseError, match=r"was rejected by Dr\. Bea .*: that stands"):
        say(repo, "v1.0.0", push=True)
    assert champion_version("phantom", repo=repo) is None


def test_the_same_decision_by_two_at_once_is_one(
    repo: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, repo, lambda: say(other, "v1.0.0", who="Dr. Bea", push=True))
    assert "was approved by Dr. Bea" in say(repo, "v1.0.0", push=True)
    assert len(told_of(repo, "v1.0.0")) == 1


def test_a_decision_that_never_got_out_is_pushed_when_it_is_repeated(repo: Path, other: Path) -> None:
    say(repo, "v1.0.0")
    assert "already" in say(repo, "v1.0.0", push=True)
    vcs.update_tags(other, "phantom")
    assert champion_version("phantom", repo=other) == "v1.0.0"


def test_a_decision_that_goes_out_with_the_release_excludes_others_too(repo: Path, other: Path) -> None:
    say(repo, "v1.0.0")
    with pytest.raises(ReleaseError, match=r"is champion already, here and in origin"):
        registry.assign("phantom@v1.0.0", "champion", repo=repo, push=True)
    assert "decided/phantom/v1.0.0" in run(other, "git", "ls-remote", "--tags", "origin")


def test_a_mark_without_its_decision_is_said_to_be_one(repo: Path, other: Path) -> None:
    say(other, "v1.0.0", push=True)
    (tag,) = [one.tag for one in registry.history(repo=other, dataset="phantom") if one.stage == "champion"]
    run(other, "git", "push", "-q", "origin", f":refs/tags/{tag}")
    with pytest.raises(ReleaseError, match=r"`git push origin ':refs/tags/decided/phantom/v1\.0\.0'`"):
        say(repo, "v1.0.0", push=True)
    run(repo, "git", "push", "-q", "origin", ":refs/tags/decided/phantom/v1.0.0")
    assert "is the champion" in say(repo, "v1.0.0", push=True)


def test_a_mark_holds_on_to_no_data(repo: Path, other: Path) -> None:
    say(repo, "v1.0.0", push=True)
    run(other, "git", "fetch", "-q", "--tags")
    assert not run(other, "git", "ls-tree", "-r", "decided/phantom/v1.0.0")
    assert run(other, "git", "rev-list", "--count", "decided/phantom/v1.0.0") == "1"


def made(minutes: int, tag: str, version: str, stage: str | None) -> Event:
    return Event(
        dataset="phantom",
        action="assignment" if stage else "registration",
        version=version,
        stage=stage,
        when=datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC) + datetime.timedelta(minutes=minutes),
        commit="c0ffee",
        author="A <a@example.org>",
        message="",
        tag=tag,
    )


def test_a_clock_that_is_behind_makes_no_later_approval_an_earlier_one() -> None:
    events = [
        made(0, "phantom@v1", "v1", None),
        made(1, "phantom#champion#1", "v1", "champion"),
        made(9, "phantom@v2", "v2", None),
        # By a machine whose clock is five minutes behind.
        made(-4, "phantom#champion#2", "v2", "champion"),
    ]
    ordered = in_order(reversed(events))
    assert [(one.tag, one.when.minute) for one in ordered] == [
        ("phantom@v1", 0),
        ("phantom#champion#1", 1),
        ("phantom#champion#2", 1),
        ("phantom@v2", 9),
    ]
    other = replace(events[1], dataset="other", when=events[3].when)
    assert in_order([*events, other])[0] == other

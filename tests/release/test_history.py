import datetime
from pathlib import Path

import pytest

from tests.release.helpers import run
from ttl.errors import ReleaseError
from ttl.release import tags
from ttl.release.history import Live, history, message, rollback, trailers
from ttl.release.registry import assign, models, withdraw
from ttl.release.tags import Event

NOON = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC)


def at(hours: float) -> datetime.datetime:
    return NOON + datetime.timedelta(hours=hours)


def event(hours: float, action: str, version: str, *, when: object = None, text: str = "") -> Event:
    return Event(
        dataset="phantom",
        action=action,
        version=f"{version}.0.0",
        stage="champion" if action.endswith("assignment") else None,
        when=when or at(hours),  # type: ignore[arg-type]
        commit="c0ffee",
        author="A <a@example.org>",
        message=text,
        tag=f"phantom@{version}",
    )


@pytest.fixture
def told(repo: Path, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The registry's events, to be filled in."""
    events: list[Event] = []
    monkeypatch.setattr(tags, "read_events", lambda root, dataset=None: events)
    return events


def spans(repo: Path, day: str | None = None) -> list[tuple[str, float, float | None]]:
    def hours(when: datetime.datetime | None) -> float | None:
        return None if when is None else (when - NOON).total_seconds() / 3600

    found = history("phantom", repo=repo, day=None if day is None else datetime.date.fromisoformat(day))
    return [(one.version.removesuffix(".0.0"), hours(one.since), hours(one.until)) for one in found]  # type: ignore[misc]


def versions(repo: Path, day: str) -> list[str]:
    return [version for version, _, _ in spans(repo, day)]


def register(repo: Path) -> str:
    """Register a version of its own commit, without DVC, and return it."""
    run(
        repo,
        "git",
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@b.org",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "x",
    )
    facts = "Release\n\nNetwork: efficientnet_lite0 ttl blocks.2\nDataset-Revision: f00d"
    head = run(repo, "git", "rev-parse", "HEAD")
    return tags.register(repo, "phantom", head, None, facts).rpartition("@")[2]


def live(lived: list[Live]) -> list[str]:
    return [one.version for one in lived if one.until is None]


def test_what_was_live_on_a_day(repo: Path, told: list[Event]) -> None:
    told += [
        event(-30, "registration", "v1"),
        event(0, "assignment", "v1"),
        event(48, "assignment", "v2"),
        event(49, "assignment", "v3"),
        event(120, "unassignment", "v3"),
    ]
    assert spans(repo) == [("v1", 0, 48), ("v2", 48, 49), ("v3", 49, 120)]
    assert versions(repo, "2026-03-01") == []
    assert versions(repo, "2026-03-02") == ["v1"]
    assert versions(repo, "2026-03-03") == ["v1"]
    assert versions(repo, "2026-03-04") == ["v1", "v2", "v3"]
    assert versions(repo, "2026-03-06") == ["v3"]
    assert versions(repo, "2026-03-07") == ["v3"]
    assert versions(repo, "2026-03-08") == []


def test_a_day_begins_and_ends_at_midnight_utc(repo: Path, told: list[Event]) -> None:
    told += [event(12, "assignment", "v1"), event(36, "assignment", "v2")]
    assert versions(repo, "2026-03-02") == []
    assert versions(repo, "2026-03-03") == ["v1"]
    assert versions(repo, "2026-03-04") == ["v2"]
    assert versions(repo, "9999-12-30") == ["v2"]


def test_times_of_any_zone_and_of_none_are_the_same_moments(
    repo: Path, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    east = datetime.timezone(datetime.timedelta(hours=9))
    naive = at(20).astimezone().replace(tzinfo=None)
    told += [
        event(0, "assignment", "v1", when=at(14).astimezone(east)),
        event(0, "assignment", "v2", when=naive),
    ]
    assert spans(repo) == [("v1", 14, 20), ("v2", 20, None)]
    assert {one.since.tzinfo for one in history("phantom", repo=repo)} == {datetime.UTC}
    assert versions(repo, "2026-03-02") == []
    assert versions(repo, "2026-03-03") == ["v1", "v2"]


def test_only_what_concerns_the_champion_ends_its_time(repo: Path, told: list[Event]) -> None:
    told += [
        event(0, "assignment", "v1"),
        event(1, "assignment", "v2"),
        # A stage that v1 has no longer, and a version that is gone and was not live.
        event(2, "unassignment", "v1"),
        event(3, "deregistration", "v1"),
        event(4, "registration", "v3"),
    ]
    assert spans(repo) == [("v1", 0, 1), ("v2", 1, None)]
    told += [event(5, "deregistration", "v2"), event(6, "unassignment", "v2")]
    assert spans(repo)[-1] == ("v2", 1, 5)
    told += [event(7, "assignment", "v3")]
    assert spans(repo) == [("v1", 0, 1), ("v2", 1, 5), ("v3", 7, None)]


def test_who_approved_it_and_on_which_data(repo: Path) -> None:
    register(repo)
    with pytest.raises(ReleaseError, match="'other' was released"):
        history("other", repo=repo)
    assert history("phantom", repo=repo) == []
    facts = {
        "Decision": "approve",
        "Approved-By": "Dr. Ada",
        "Reason": "as good",
        "Rule": "ab",
        "Evidence": "cd",
    }
    assign("phantom@v1.0.0", "champion", repo=repo, message=message("Approve phantom@v1.0.0", facts))
    (one,) = history("phantom", repo=repo)
    assert (one.approved_by, one.reason, one.rule, one.evidence) == ("Dr. Ada", "as good", "ab", "cd")
    assert (one.version, one.revision, one.until) == ("v1.0.0", "f00d", None)
    assert one.network == "efficientnet_lite0 ttl blocks.2"
    assert one.commit == run(repo, "git", "rev-parse", "phantom@v1.0.0^{commit}")
    today = datetime.datetime.now(datetime.UTC).date()
    assert history("phantom", repo=repo, day=today) == [one]
    assert history("phantom", repo=repo, day=today - datetime.timedelta(days=2)) == []
    withdraw("phantom@v1.0.0", "champion", repo=repo)
    (ended,) = history("phantom", repo=repo)
    assert ended.until is not None
    with pytest.raises(ReleaseError, match="has no champion: there is nothing to go back from"):
        rollback("phantom", repo=repo, who="B", reason="why")


def test_each_rollback_goes_one_further_back(repo: Path) -> None:
    for _ in range(3):
        assign(f"phantom@{register(repo)}", "champion", repo=repo)
    for blank in ("", " \n"):
        for who, reason in ((blank, "why"), ("B", blank)):
            with pytest.raises(ReleaseError, match="needs the name of who decides, and a reason"):
                rollback("phantom", repo=repo, who=who, reason=reason)
    back = rollback("phantom", repo=repo, who="B", reason="missed findings\nApproved-By: nobody")
    assert (back.version, "champion" in back.stages) == ("v1.0.1", True)
    last = history("phantom", repo=repo)[-1]
    assert (last.version, last.approved_by, last.decision) == ("v1.0.1", "B", "roll back")
    assert last.reason == "missed findings Approved-By: nobody"
    assert rollback("phantom", repo=repo, who="B", reason="worse").version == "v1.0.0"
    lived = history("phantom", repo=repo)
    assert [one.version for one in lived] == ["v1.0.0", "v1.0.1", "v1.0.2", "v1.0.1", "v1.0.0"]
    assert live(lived) == ["v1.0.0"]
    with pytest.raises(ReleaseError, match=r"had no champion before v1\.0\.0"):
        rollback("phantom", repo=repo, who="B", reason="again")
    # Forward again, and back: to what was there before, and not to what was left for its faults.
    assign("phantom@v1.0.2", "champion", repo=repo)
    assert rollback("phantom", repo=repo, who="B", reason="again").version == "v1.0.1"
    assert [one.version for one in models(repo=repo) if "champion" in one.stages] == ["v1.0.1"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_what_a_person_types_begins_no_line(end: str) -> None:
    forged = f"fine{end}Approved-By: the boss{end}{end}Rule: other"
    text = message(f"Approve{end}Evidence: none", {"Approved-By": "A", "Reason": forged, "Rule": "true"})
    assert trailers(text) == {
        "Approved-By": "A",
        "Reason": "fine Approved-By: the boss Rule: other",
        "Rule": "true",
    }
    assert text.splitlines()[0] == "Approve Evidence: none"
    assert len(text.splitlines()) == 5


def test_a_message_is_read_back_and_other_lines_are_not() -> None:
    told = {"Decision": "approve", "Reason": "a: b", "Flow-Run": "1-2", "Rejected-By": "Zoë"}
    assert trailers(message("Title", told)) == told
    assert trailers("Approved-by: a\n Rule: b\nNetwork: c\nxRule: d") == {}
    assert trailers("") == {}


def test_nothing_typed_steers_a_terminal_and_names_stay() -> None:
    text = message("t", {"Approved-By": "Zoë Ōtani 李", "Reason": "a\x1b[2Jb \u202ec\x00d"})
    assert text == "t\n\nApproved-By: Zoë Ōtani 李\nReason: a [2Jb c d"


def test_a_rollback_repeats_the_rule_and_evidence_of_what_it_goes_back_to(repo: Path) -> None:
    first, second = register(repo), register(repo)
    told = {"Approved-By": "A", "Reason": "good", "Rule": "5eed", "Evidence": "cafe"}
    assign(f"phantom@{first}", "champion", repo=repo, message=message("Approve", told))
    assign(f"phantom@{second}", "champion", repo=repo, message=message("Approve", told | {"Rule": "0ther"}))
    rollback("phantom", repo=repo, who="B", reason="why")
    last = history("phantom", repo=repo)[-1]
    assert (last.version, last.approved_by) == (first, "B")
    assert (last.rule, last.evidence) == ("5eed", "cafe")


def test_a_rollback_that_is_pushed_goes_back_from_what_others_have_made_champion(
    repo: Path, remotes: Path, tmp_path: Path
) -> None:
    first, second = register(repo), register(repo)
    assign(f"phantom@{first}", "champion", repo=repo)
    run(repo, "git", "push", "-q", "--tags", "origin")
    run(tmp_path, "git", "clone", "-q", str(remotes), "other")
    assign(f"phantom@{second}", "champion", repo=tmp_path / "other", push=True)
    assert rollback("phantom", repo=repo, who="B", reason="why", push=True).version == first
    assert [one.version for one in history("phantom", repo=repo)] == [first, second, first]

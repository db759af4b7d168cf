import datetime
import os
from pathlib import Path

import pytest
import yaml

from tests.release.helpers import run
from ttl.errors import ParamsError, ReleaseError
from ttl.files import sha256
from ttl.release.gate_rule import FILE, GateRule, RuleVersion, check_age, load_rule, rule_version

OURS = Path(__file__).parents[2] / FILE
START = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC)


def at(hours: float) -> datetime.datetime:
    return START + datetime.timedelta(hours=hours)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository of nobody, empty."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
    root = tmp_path / "repo"
    root.mkdir()
    run(root, "git", "init", "-q", "-b", "main")
    return root


@pytest.fixture
def commit(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a file and commit it at a time, given in hours, in a zone."""

    def commit(name: str, content: str, hours: float, zone: str = "+0000") -> str:
        (folder / name).write_text(content)
        date = f"{int(at(hours).timestamp())} {zone}"
        monkeypatch.setenv("GIT_AUTHOR_DATE", date)
        monkeypatch.setenv("GIT_COMMITTER_DATE", date)
        run(folder, "git", "add", name)
        run(folder, "git", "commit", "-q", "-m", name)
        return run(folder, "git", "rev-parse", "HEAD")

    return commit


def check(root: Path, *, received: float, taken_in: str) -> RuleVersion:
    version = rule_version(root)
    check_age(root, version, received_at=at(received), taken_in=taken_in)
    return version


def test_our_rule_is_read_and_says_what_the_code_says() -> None:
    assert load_rule(OURS) == GateRule()
    assert yaml.safe_load(OURS.read_text()).keys() == GateRule.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin: {frozen: 0.5, rolling: 0.04}", r"margin\.frozen is 0\.5; it must be from 0 to under 0\.5"),
        ("margin: {frozen: 0.02, rolling: -0.1}", r"margin\.rolling is -0\.1"),
        ("margin: {frozen: 0.02}", r"gate\.margin lacks the setting 'rolling'"),
        ("margin: 0.02", r"gate\.margin is 0\.02; it must be a mapping"),
        ("sensitivity: 0.7", r"sensitivity is 0\.7; it must be from 0"),
        ("sensitivity: .nan", r"gate\.sensitivity is nan; it must be a finite number"),
        ("subgroups: {loss: 0.5}", r"subgroups\.loss is 0\.5"),
        ("subgroups: {by: [sex]}", r"gate\.subgroups\.by\[0\] is 'sex'; it must be one of: site, year"),
        ("subgroups: {patients: 1}", r"subgroups\.patients is 1; it must be a whole number, at least 2"),
        ("floor: 0.4", r"floor is 0\.4; it must be from 0\.5 to under 1"),
        ("floor: 1.0", r"floor is 1\.0"),
        ("confidence: 1.0", r"confidence is 1\.0; it must be from 0\.5 to under 1"),
        ("confidence: 95", r"confidence is 95"),
        ("patients: {frozen: 10, rolling: 1}", r"patients\.rolling is 1\.0; it must be a whole number"),
        ("patients: {frozen: 2.5, rolling: 9}", r"patients\.frozen is 2\.5; it must be a whole number"),
        ("drift: {patients: 0}", r"drift\.patients is 0"),
        ("drift: hold", r"gate\.drift is 'hold'; it must be a mapping"),
        ("resamples: 199", r"resamples is 199; it must be a whole number, at least 200"),
        ("around: -1", r"around is -1"),
        ("full_every: 0", r"full_every is 0"),
        ("full_every: true", r"gate\.full_every is True; it must be a whole number"),
        ("margins: 1", r"gate has no setting 'margins'; it has: margin, floor"),
        ("[1, 2]", r"gate is \[1, 2\]; it must be a mapping"),
        ("false", r"gate is False; it must be a mapping"),
        ("margin: {", "is not valid YAML"),
        ("margin: 0.01\nmargin: 0.1", r'gate\.yaml, line 2: found duplicate key "margin"'),
    ],
)
def test_what_makes_no_rule_is_refused_with_its_value(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_rule(tmp_path / FILE)


def test_a_rule_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="does not exist; write the rule, and commit it, before data"):
        load_rule(tmp_path / FILE)
    (tmp_path / FILE).write_text("# all of it is a comment\n")
    with pytest.raises(ParamsError, match="gate is None; it must be a mapping"):
        load_rule(tmp_path / FILE)


def test_a_setting_that_the_file_does_not_have_is_asked_for(tmp_path: Path) -> None:
    values = yaml.safe_load(OURS.read_text())
    del values["floor"], values["subgroups"]["loss"], values["drift"]
    (tmp_path / FILE).write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match=r"does not say drift\.patients, floor, subgroups\.loss; every"):
        load_rule(tmp_path / FILE)


def test_the_version_is_the_last_commit_that_changed_the_rule(folder: Path, commit) -> None:
    commit("gate.yaml", "floor: 0.7\n", 0)
    second = commit("gate.yaml", "floor: 0.8\n", 1, "+0530")
    commit("other", "", 2)
    version = rule_version(folder)
    assert version.commit == second
    assert version.committed_at == at(1)
    assert version.sha256 == sha256(folder / FILE)


def test_a_rule_that_is_not_committed_as_it_lies_is_refused(folder: Path, commit) -> None:
    commit("other", "", 0)
    with pytest.raises(ReleaseError, match=r"gate\.yaml is not committed"):
        rule_version(folder)
    (folder / FILE).write_text("floor: 0.8\n")
    with pytest.raises(ReleaseError, match="differs from what is committed"):
        rule_version(folder)
    run(folder, "git", "add", str(FILE))
    with pytest.raises(ReleaseError, match="differs from what is committed"):
        rule_version(folder)
    commit("gate.yaml", "floor: 0.8\n", 1)
    rule_version(folder)
    (folder / FILE).write_text("floor: 0.6\n")
    with pytest.raises(ReleaseError, match="differs from what is committed"):
        rule_version(folder)
    (folder / FILE).unlink()
    with pytest.raises(ReleaseError, match="differs from what is committed"):
        rule_version(folder)


def test_an_ignored_rule_is_refused(folder: Path, commit) -> None:
    commit(".gitignore", "gate.yaml\n", 0)
    (folder / FILE).write_text("floor: 0.8\n")
    with pytest.raises(ReleaseError, match=r"gate\.yaml is not committed"):
        rule_version(folder)


def test_what_git_is_told_to_overlook_is_refused(folder: Path, commit) -> None:
    commit("gate.yaml", "floor: 0.8\n", 0)
    run(folder, "git", "update-index", "--assume-unchanged", str(FILE))
    (folder / FILE).write_text("floor: 0.6\n")
    with pytest.raises(ReleaseError, match="differs from what is committed"):
        rule_version(folder)


def test_a_rule_older_than_the_drop_judges_it(folder: Path, commit) -> None:
    rule = commit("gate.yaml", "floor: 0.8\n", 0)
    drop = commit("data.dvc", "1", 5)
    assert check(folder, received=4, taken_in=drop).commit == rule
    # A moment is a moment, in whichever zone it is written down.
    east = datetime.timezone(datetime.timedelta(hours=9))
    check_age(folder, rule_version(folder), received_at=at(0.5).astimezone(east), taken_in=drop)


def test_a_rule_younger_than_the_drop_is_refused_by_its_date(folder: Path, commit) -> None:
    commit("gate.yaml", "floor: 0.8\n", 2)
    drop = commit("data.dvc", "1", 5)
    with pytest.raises(
        ReleaseError, match=r"committed at 2026-03-02 14:00 \+0000, and the newest drop came before, at 2026"
    ):
        check(folder, received=1.5, taken_in=drop)


def test_a_rule_changed_after_the_drop_with_a_clock_set_back_is_refused(folder: Path, commit) -> None:
    commit("gate.yaml", "floor: 0.8\n", 0)
    drop = commit("data.dvc", "1", 5)
    late = commit("gate.yaml", "floor: 0.6\n", 1)
    with pytest.raises(ReleaseError, match=f"was changed in {late[:12]}, which is not among what came befo"):
        check(folder, received=4, taken_in=drop)


def test_a_rule_changed_along_with_the_drop_is_refused(folder: Path, commit) -> None:
    commit("gate.yaml", "floor: 0.8\n", 0)
    (folder / "data.dvc").write_text("1")
    run(folder, "git", "add", "data.dvc")
    both = commit("gate.yaml", "floor: 0.6\n", 1)
    with pytest.raises(ReleaseError, match="no rule may be written once the data are known"):
        check(folder, received=4, taken_in=both)


def test_a_rule_from_a_branch_merged_after_the_drop_is_refused(folder: Path, commit) -> None:
    """Several rules, each old enough, from which one is picked once the data are known."""
    commit("gate.yaml", "floor: 0.8\n", 0)
    run(folder, "git", "checkout", "-q", "-b", "lenient")
    commit("gate.yaml", "floor: 0.6\n", 1)
    run(folder, "git", "checkout", "-q", "main")
    drop = commit("data.dvc", "1", 5)
    run(folder, "git", "merge", "-q", "--no-edit", "lenient")
    with pytest.raises(ReleaseError, match="no rule may be written once the data are known"):
        check(folder, received=4, taken_in=drop)


def test_going_back_to_the_rule_that_was_there_mends_it(folder: Path, commit) -> None:
    first = commit("gate.yaml", "floor: 0.8\n", 0)
    drop = commit("data.dvc", "1", 5)
    commit("gate.yaml", "floor: 0.6\n", 6)
    with pytest.raises(ReleaseError, match="go back to the rule that was there"):
        check(folder, received=4, taken_in=drop)
    back = commit("gate.yaml", "floor: 0.8\n", 7)
    assert check(folder, received=4, taken_in=drop).commit == back
    # Not to one that was no longer there when the data came.
    changed = commit("gate.yaml", "floor: 0.7\n", 8)
    newer = commit("data.dvc", "2", 10)
    assert check(folder, received=9, taken_in=newer).commit == changed
    commit("gate.yaml", "floor: 0.8\n", 11)
    with pytest.raises(ReleaseError, match="no rule may be written"):
        check(folder, received=9, taken_in=newer)
    assert first != back


def test_a_commit_that_is_not_there_vouches_for_nothing(folder: Path, commit) -> None:
    commit("gate.yaml", "floor: 0.8\n", 0)
    with pytest.raises(ReleaseError, match="no rule may be written"):
        check(folder, received=4, taken_in="0" * 40)
    with pytest.raises(ReleaseError, match="no rule may be written"):
        check(folder, received=4, taken_in="")

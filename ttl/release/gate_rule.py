"""The gate's rule: a file under git, `gate.yaml`, that is older than the data it judges."""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ttl.data.fields import build, parse, settle_types
from ttl.errors import ParamsError, ReleaseError
from ttl.files import sha256
from ttl.release import vcs

FILE = Path("gate.yaml")

Subgroup = Literal["site", "year"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """A number for each test set: the frozen one, and the rolling one."""

    frozen: float
    rolling: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroups:
    """Which subgroups are looked at, what AUROC may be lost in each, and how many patients it takes."""

    by: tuple[Subgroup, ...] = ("site", "year")
    loss: float = 0.05
    patients: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How many patients of each class the rolling test set must have of a site since its images drifted."""

    patients: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """See the comments in `gate.yaml`. Losses are of AUROC, `sensitivity` is a share of images."""

    margin: Both = field(default_factory=lambda: Both(frozen=0.02, rolling=0.04))
    floor: float = 0.8
    sensitivity: float = 0.05
    confidence: float = 0.95
    resamples: int = 2000
    patients: Both = field(default_factory=lambda: Both(frozen=10, rolling=10))
    subgroups: Subgroups = field(default_factory=Subgroups)
    drift: Drift = field(default_factory=Drift)
    around: int = 1
    full_every: int = 4

    def __post_init__(self) -> None:
        """Refuse values that make no rule."""
        settle_types(self, where=FILE.stem)
        shares = {
            "margin.frozen": self.margin.frozen,
            "margin.rolling": self.margin.rolling,
            "sensitivity": self.sensitivity,
            "subgroups.loss": self.subgroups.loss,
        }
        for name, value in shares.items():
            if not 0 <= value < 0.5:
                raise ParamsError(f"{FILE}: {name} is {value}; it must be from 0 to under 0.5")
        if not 0.5 <= self.floor < 1:
            raise ParamsError(f"{FILE}: floor is {self.floor}; it must be from 0.5 to under 1")
        if not 0.5 <= self.confidence < 1:
            raise ParamsError(f"{FILE}: confidence is {self.confidence}; it must be from 0.5 to under 1")
        counts = {
            "patients.frozen": (self.patients.frozen, 2),
            "patients.rolling": (self.patients.rolling, 2),
            "subgroups.patients": (self.subgroups.patients, 2),
            "drift.patients": (self.drift.patients, 2),
            "resamples": (self.resamples, 200),
            "around": (self.around, 0),
            "full_every": (self.full_every, 1),
        }
        for name, (count, least) in counts.items():
            if count < least or count != int(count):
                raise ParamsError(f"{FILE}: {name} is {count}; it must be a whole number, at least {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVersion:
    """Which rule it is: the last commit that changed it, when that was made, and the file's SHA-256."""

    commit: str
    committed_at: datetime.datetime
    sha256: str


def load_rule(path: Path) -> GateRule:
    """Read the rule. Raises `ParamsError` naming the setting and its value, or the one that is missing.

    Every setting stands in the file: a default would change with the code, unseen by whoever signed the rule.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"), where=str(path))
    except FileNotFoundError as error:
        raise ParamsError(
            f"{path} does not exist; write the rule, and commit it, before data arrive"
        ) from error
    rule = build(GateRule, values, where=FILE.stem)
    if missing := sorted(set(_settings(asdict(rule))) - set(_settings(values))):
        raise ParamsError(f"{path} does not say {', '.join(missing)}; every setting of the rule stands in it")
    return rule


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def rule_version(root: Path) -> RuleVersion:
    """Return which rule a repository has. Raises `ReleaseError` for one that is not committed as it lies."""
    changed = vcs.git(root, "status", "--porcelain", "--", str(FILE))
    line = vcs.git(root, "log", "-1", "--format=%H %cI", "--", str(FILE))
    if not line and not changed:
        raise ReleaseError(f"{FILE} is not committed: write the rule before data arrive, and commit it")
    # `status` overlooks what the index is told to overlook.
    if changed or vcs.git(root, "hash-object", "--", str(FILE)) != _blob(root, "HEAD"):
        raise ReleaseError(f"{FILE} differs from what is committed: a rule counts from its commit on")
    commit, _, date = line.partition(" ")
    return RuleVersion(
        commit=commit, committed_at=datetime.datetime.fromisoformat(date), sha256=sha256(root / FILE)
    )


def check_age(root: Path, rule: RuleVersion, *, received_at: datetime.datetime, taken_in: str) -> None:
    """Refuse a rule that is younger than the newest drop it judges. Raises `ReleaseError`.

    By its date, and by the commits: the one that took the drop in, `taken_in`, must have the rule before it,
    since a date is whatever its author's clock says. A rule that has come back to what it was then is as old
    as it was then.
    """
    commit, committed_at = rule.commit, rule.committed_at
    if taken_in and _blob(root, taken_in) == _blob(root, rule.commit):
        commit, committed_at = _last_change(root, taken_in)
    if committed_at > received_at:
        raise ReleaseError(
            f"{FILE} was committed at {committed_at:%Y-%m-%d %H:%M %z}, and the newest drop came "
            f"before, at {received_at:%Y-%m-%d %H:%M %z}: no rule may be written once the data are "
            "known. From the next drop on it counts; for these data, go back to the rule that was there"
        )
    before = vcs.attempt_git(root, "merge-base", "--is-ancestor", commit, taken_in)
    if commit == taken_in or before.returncode:
        raise ReleaseError(
            f"{FILE} was changed in {commit[:12]}, which is not among what came before {taken_in[:12]}, "
            "where the newest drop was taken in: no rule may be written once the data are known"
        )


def _blob(root: Path, commit: str) -> str:
    """Return git's hash of the rule as a commit has it, empty where it has none."""
    return vcs.attempt_git(root, "rev-parse", "--verify", "--quiet", f"{commit}:./{FILE}").stdout.strip()


def _last_change(root: Path, commit: str) -> tuple[str, datetime.datetime]:
    line = vcs.git(root, "log", "-1", "--format=%H %cI", commit, "--", str(FILE))
    found, _, date = line.partition(" ")
    return found, datetime.datetime.fromisoformat(date)

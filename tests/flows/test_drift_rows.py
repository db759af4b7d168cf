"""What the intake says of drift, and that it says so where it cannot tell."""

import subprocess

from flows.drift import drift_rows
from tests.intake.test_append import SPEC, checked, delivery
from ttl.intake.append import append
from ttl.intake.received import taken
from ttl.layout import Layout


def test_with_a_champion_that_cannot_be_fetched_drift_is_not_told(tmp_path, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
    monkeypatch.setenv("TTL_CACHE", str(tmp_path / "cache"))
    layout = Layout(root=tmp_path / "project")
    layout.datasets.mkdir(parents=True)
    append("toy", SPEC, [delivery("first", checked([f"p{i}" for i in range(40)]))], layout.datasets / "toy")
    drops = taken(layout.datasets / "toy")
    # Neither here, where there is no repository at all …
    (row,) = drift_rows("toy", layout, drops, own=False)
    assert (row["drop"], row["drifted"], row["rank"]) == ("north/first", "not told", None)
    # … nor with a champion of which there are tags alone.
    for words in (
        ("init", "-q"),
        ("commit", "-q", "--allow-empty", "-m", "start"),
        ("tag", "-a", "-m", "x", "toy@v1.0.0"),
        ("tag", "-a", "-m", "x", "toy#champion#1"),
    ):
        subprocess.run(["git", *words], cwd=layout.root, check=True)
    (layout.root / ".dvc").mkdir()
    (row,) = drift_rows("toy", layout, drops, own=False)
    assert (row["drop"], row["drifted"]) == ("north/first", "not told")
    assert "had sent nothing before" not in row["views"], "the champion was not looked for"

"""`dvc plots` on what a sweep leaves, with the repository's own plots and templates; it needs no services."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.projects import ROOT
from tests.release.helpers import run
from tests.release.swept import NAME, Left, leave

SWEEP = {"sweep": {"cmd": "echo swept", "outs": [{"results": {"persist": True}}]}}
KINDS = ("trade-off", "curves", "confusion", "calibration")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose sweep has run once, and whose tables have changed since."""
    root = tmp_path_factory.mktemp("project")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "dvc", "init", "-q")
    shutil.copytree(ROOT / ".dvc" / "plots", root / ".dvc" / "plots")
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": SWEEP, "plots": ours}))
    leave(root)
    run(root, "dvc", "commit", "-q", "--force")
    run(root, "git", "add", "-A")
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    run(root, "git", *identity, "commit", "-q", "-m", "one seed")
    leave(root, Left(seeds=2))
    return root


def plots(project: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", *command, "--json"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def values(shown: str, kind: str) -> list[dict[str, str]]:
    (plot,) = json.loads(shown)["data"][f"results/plots/{kind}/{NAME}.csv"]
    assert plot["type"] == "vega"
    return plot["content"]["data"]["values"]


def test_every_plot_shows_what_its_file_says(project: Path) -> None:
    shown = plots(project, "show")
    assert "errors" not in json.loads(shown)
    assert set(json.loads(shown)["data"]) == {f"results/plots/{kind}/{NAME}.csv" for kind in KINDS}
    for kind in KINDS:
        table = pl.read_csv(project / "results" / "plots" / kind / f"{NAME}.csv")
        assert len(values(shown, kind)) == table.height
        assert "<DVC_METRIC" not in json.dumps(json.loads(shown)["data"][f"results/plots/{kind}/{NAME}.csv"])
    curve = json.loads(shown)["data"][f"results/plots/curves/{NAME}.csv"][0]["content"]
    assert curve["spec"]["encoding"]["y"]["field"] == "val_auroc"
    assert curve["spec"]["encoding"]["color"]["field"] == "cut"


def test_two_revisions_are_told_apart(project: Path) -> None:
    shown = plots(project, "diff", "HEAD")
    for kind, seeds in (("curves", {"HEAD": 1, "workspace": 2}), ("trade-off", None)):
        rows = values(shown, kind)
        assert {row["rev"] for row in rows} == {"HEAD", "workspace"}
        for revision, count in (seeds or {}).items():
            assert len({row["seed"] for row in rows if row["rev"] == revision}) == count


def test_the_templates_use_only_columns_that_there_are(project: Path) -> None:
    for kind, template in (("trade-off", "trade_off"), ("curves", "curves")):
        text = (project / ".dvc" / "plots" / f"{template}.json").read_text()
        table = pl.read_csv(project / "results" / "plots" / kind / f"{NAME}.csv")
        named = {one for one in ("model", "strategy", "cut", "seed") if f'"field": "{one}"' in text}
        assert named
        assert named <= set(table.columns)

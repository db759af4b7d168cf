import dataclasses
import datetime
import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.release import trained as sweep
from tests.release.helpers import DVC_YAML, run, write_model
from tests.release.trained import NAME, Trained
from ttl.data.dataset import SAMPLES, PackedDataset
from ttl.intake.received import IMAGES_SCHEMA, Taken
from ttl.release.export import export_model
from ttl.release.int8 import Int8Rule

DAYS = [datetime.datetime(2026, 3, day, 9, tzinfo=datetime.UTC) for day in (1, 2, 3)]

OFFERED = Int8Rule(largest_auroc_change=0.05, least_gain=0)
"""Twenty validation images, and a machine that is busy with other tests: the real rule would be a toss."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What a sweep leaves. Read it only."""
    return sweep.make(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="session")
def exported(trained: Trained) -> Path:
    """The chosen model's folder, `models/squares`. Read it only."""
    return export_model(
        trained.selection,
        runs=trained.runs,
        dataset=trained.dataset,
        out=trained.root / "models",
        int8_rule=OFFERED,
    )


@pytest.fixture
def grown(trained: Trained, tmp_path: Path) -> PackedDataset:
    """The drawn dataset as if 24 of its validation images were rolling, from three drops of two sites."""
    root = tmp_path / NAME
    shutil.copytree(trained.dataset.root, root)
    samples = pl.read_parquet(root / SAMPLES)
    position = pl.int_range(pl.len())
    here = position.is_between(48, 71)
    changed = samples.with_columns(
        pl.when(here).then(pl.lit("rolling")).otherwise("split").alias("split"),
        pl.when(position < 64).then(pl.lit("north")).when(here).then(pl.lit("south")).alias("site"),
        pl.when(position < 60).then(pl.date(2024, 5, 1)).alias("acquired_at"),
    )
    changed.write_parquet(root / SAMPLES)
    rolling = changed.filter(pl.col("split") == "rolling")["sample_id"].to_list()
    drops = [("north", "1", rolling[:8]), ("north", "2", rolling[8:16]), ("south", "1", rolling[16:])]
    for number, ((site, drop, ids), when) in enumerate(zip(drops, DAYS, strict=True)):
        taken = Taken(site=site, drop=drop, digest=f"{number:064}", received_at=when, accepted=len(ids))
        taken = dataclasses.replace(taken, digest=f"{number}" + "a" * 63)
        stem = root / f"drop-{taken.digest[:16]}"
        rows = pl.DataFrame([(one, "0") for one in ids], IMAGES_SCHEMA, orient="row")
        rows.write_parquet(stem.with_suffix(".parquet"))
        stem.with_suffix(".json").write_text(taken.to_json())
    return PackedDataset.open(root)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository like ours, made once: code, a sweep's models in DVC, one commit, nobody's identity."""
    folder = tmp_path_factory.mktemp("template")
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("sweep:\n  seeds: [0]\n")
    (folder / ".gitignore").write_text("/models\n/data\n")
    (folder / "ttl").mkdir()
    (folder / "ttl" / "code.py").write_text("VERSION = 1\n")
    # The stages only need to be recorded: what they would run is laid down beforehand.
    (folder / "make_data.py").write_text("")
    (folder / "make_models.py").write_text("")
    (folder / "data").mkdir()
    (folder / "data" / "pixels").write_text("pixels")
    write_model(folder / "models" / "phantom", "first")
    write_model(folder / "models" / "second", "another")
    run(folder, "dvc", "commit", "-q", "--force")
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    run(folder, "git", "add", "-A")
    run(folder, "git", *identity, "commit", "-q", "-m", "start")
    return folder


@pytest.fixture
def repo(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template, in a home without any git configuration."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("TTL_CACHE", str(home / "cache"))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    shutil.copytree(template, tmp_path / "repo", symlinks=True)
    return tmp_path / "repo"


@pytest.fixture
def remotes(repo: Path, tmp_path: Path) -> Path:
    """Give the repository a bare git remote and a DVC remote; return the git remote."""
    run(tmp_path, "git", "init", "-q", "--bare", "-b", "main", "remote.git")
    run(repo, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    run(repo, "git", "push", "-q", "origin", "main")
    run(repo, "dvc", "remote", "add", "-q", "--default", "store", str(tmp_path / "store"))
    return tmp_path / "remote.git"

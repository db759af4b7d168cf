import os
import shutil
from pathlib import Path

import pytest

from tests.release import trained as sweep
from tests.release.helpers import DVC_YAML, run, write_model
from tests.release.trained import Trained
from ttl.release.export import export_model
from ttl.release.int8 import Int8Rule

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

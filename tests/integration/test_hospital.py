"""A hospital's loop by deployments: a drop on S3, an intake, a retraining by event, a person's word."""

import datetime
import os
import subprocess
import sys

import pytest
import yaml

from tests.projects import ROOT
from tests.services import Deployment, until
from ttl.bucket import Bucket
from ttl.intake.phantom import write_drop

NAME = "ward"

PARAMS = {
    "prepare": {},
    "intake": {
        NAME: {
            "incoming": "s3://ttl/incoming",
            "classes": ["normal", "finding"],
            "size": 64,
            "synthetic": True,
        }
    },
    "sweep": {
        "backbones": ["efficientnet_lite0"],
        "strategies": ["ftl", "ttl"],
        "planner": "exhaustive",
        "cuts": ["blocks.2", "blocks.3"],
        "recipe": {"base": "fast", "epochs": 4},
        "image_size": 64,
    },
    "selection": {"margin": 0.4, "patients": 2, "resamples": 200},
}
RULE = yaml.safe_load((ROOT / "gate.yaml").read_text()) | {
    "floor": 0.5,
    "resamples": 200,
    "patients": {"frozen": 2, "rolling": 2},
}


def run(folder, *command, **variables):
    if command[0] == "dvc":
        command = (sys.executable, "-m", *command)
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def ward(stack, client, tmp_path, monkeypatch):
    """The stack's repository with a dataset that grows by drops; in the end it is as it was."""
    for name, value in {"NAME": "A", "EMAIL": "a@example.org"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    bare, clone = stack.settings.repository, tmp_path / "clone"
    before = run(bare, "git", "rev-parse", "main")
    run(tmp_path, "git", "clone", "--quiet", str(bare), str(clone))
    (clone / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (clone / "gate.yaml").write_text(yaml.safe_dump(RULE))
    with (clone / "dvc.yaml").open("a") as file:
        file.write(f"  {NAME}:\n    path: models/{NAME}\n    type: model\n")
    run(clone, "git", "commit", "--quiet", "--all", "--message", "a ward")
    run(clone, "git", "push", "--quiet", "origin", "main")
    incoming = Bucket("s3://ttl/incoming", patience=60)
    yield clone, incoming
    incoming.remove("", folder=True)
    run(bare, "git", "update-ref", "refs/heads/main", before)
    for tag in run(bare, "git", "tag", "--list", f"{NAME}*").split():
        run(bare, "git", "tag", "--delete", tag)


def deliver(incoming, folder, site, patients):
    """Put a drop on S3, its manifest last."""
    made = write_drop(folder, site=site, drop="january", patients=patients, date=datetime.date(2026, 1, 31))
    files = sorted(path for path in made.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda one: one.name == "MANIFEST.csv"):
        incoming.write(str(path.relative_to(folder)), path.read_bytes())


def test_a_drop_becomes_a_champion_by_a_persons_word(stack, store, ward, tmp_path):
    clone, incoming = ward
    for site in ("north", "south"):
        deliver(incoming, tmp_path / "drops", site, 60)
    intake, retraining = (Deployment(stack, store, flow) for flow in ("ttl-intake", "ttl-retrain"))
    intake.start()
    assert intake.ends("Completed", "Failed", "Crashed") == "Completed", intake.logs()
    run(clone, "git", "pull", "--quiet")
    assert "north/january, south/january" in run(clone, "git", "log", "-1", "--format=%s")
    # By the event alone.
    until(retraining.started, 120, "a retraining has been started")
    assert retraining.ends("Suspended", "Completed", "Failed", "Crashed", seconds=240) == "Suspended", (
        retraining.logs()
    )
    evidence = retraining.artifact(f"ttl-evidence-{NAME}")
    assert "**propose**" in evidence
    assert "SYNTHETIC" in evidence
    # It waits through a restart of the server.
    stack.kill("prefect")
    stack.services.prefect()
    assert retraining.state() == "Suspended"
    assert retraining.resume(decision="approve", name="Dr. Ada Hart", reason="seen on 40 films") == "ACCEPT"
    assert retraining.ends("Completed", "Failed", "Crashed", seconds=240) == "Completed", retraining.logs()
    run(clone, "git", "fetch", "--quiet", "--tags")
    tags = run(clone, "git", "tag", "--list", f"{NAME}*").split()
    assert f"{NAME}@v1.0.0" in tags
    approvals = [run(clone, "git", "tag", "--list", "--format=%(contents)", tag) for tag in tags]
    assert any("Approved-By: Dr. Ada Hart\nReason: seen on 40 films" in text for text in approvals)
    # A second intake takes nothing, and so starts no retraining.
    intake.start()
    assert intake.ends("Completed", "Failed", "Crashed") == "Completed"
    run(clone, "git", "fetch", "--quiet")
    assert run(clone, "git", "rev-parse", "HEAD") == run(clone, "git", "rev-parse", "origin/main")
    # From the tag alone, with the remote.
    run(clone, "git", "checkout", "--quiet", f"{NAME}@v1.0.0")
    run(clone, "dvc", "pull", "--quiet")
    assert (clone / "models" / NAME / "model.onnx").is_file()
    assert (clone / "evidence" / NAME / "evidence.html").is_file()

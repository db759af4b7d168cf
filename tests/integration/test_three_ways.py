"""One sweep three ways, one leaderboard: here, by a deployment's worker with S3, on two nodes of Ray."""

import json
import shutil
import subprocess

import polars as pl
import pytest

from tests.projects import Project
from ttl.search.results import LEADERBOARD, read_selections

PARAMETERS = {
    "backbones": ["resnet10t"],
    "sources": ["random"],
    "strategies": ["ftl", "ttl"],
    "planner": "exhaustive",
    "seeds": [0],
    "recipe": {"base": "fast", "epochs": 2},
    "image_size": 48,
}
TIMES = ["train_seconds", "latency_ms"]


@pytest.fixture
def checkout(stack, tmp_path):
    """Make a checkout of the worker's repository, with its data, that uses no store."""

    def make(name, **environment):
        folder = tmp_path / name
        stack._git("clone", "--quiet", str(stack.settings.repository), str(folder), cwd=tmp_path)
        packed = stack.settings.folder / "clone" / "data" / "packed"
        shutil.copytree(packed, folder / "data" / "packed", symlinks=False)
        return Project(folder, {"PYTHONPATH": str(folder), **environment})

    return make


def options(executor=None):
    words = []
    for name, value in PARAMETERS.items():
        singular = {"strategies": "strategy", "recipe": "recipe"}.get(name, name.removesuffix("s"))
        for one in value if isinstance(value, list) else [value]:
            text = json.dumps(one) if isinstance(one, dict) else str(one)
            words += [f"--{singular.replace('_', '-')}", text]
    return ["sweep", *words, *(["--executor", executor] if executor else [])]


def board(project):
    return pl.read_csv(project.folder / "results" / LEADERBOARD).drop(TIMES)


def test_three_ways_lead_to_one_leaderboard(stack, client, store, deployment, checkout):
    alone = checkout("alone")
    status, output = alone.run(*options())
    assert status == 0, output

    deployment.start(**PARAMETERS)
    assert deployment.ends("Completed", "Failed", "Crashed") == "Completed", deployment.logs()
    rows = json.loads(deployment.artifact("ttl-leaderboard"))
    chosen = read_selections(alone.folder / "results")["phantom"]["chosen"]
    (selected,) = (row for row in rows if row["mark"] == "selected")
    assert (selected["strategy"], selected["cut"]) == (chosen["strategy"], chosen["cut"])
    expected = board(alone)
    by_worker = pl.DataFrame(rows).drop(TIMES).select(expected.columns)
    assert by_worker.cast(expected.schema).equals(expected)

    # Whoever names the store has all of it at once, the model too, and trains nothing.
    later = checkout("later", **client)
    status, output = later.run(*options())
    assert status == 0, output
    assert "to run on" not in output
    assert board(later).equals(board(alone))
    weights = [
        (one.folder / "models" / "phantom" / "model.safetensors").read_bytes() for one in (later, alone)
    ]
    assert weights[0] == weights[1]
    store.bucket.remove("", folder=True)

    on_ray = checkout("ray", **client)
    status, output = on_ray.run(*options("ray"))
    assert status == 0, output
    assert board(on_ray).equals(board(alone))


def test_nobody_is_answered_without_the_password(client):
    """Neither the API, nor the database, nor the storage."""
    ask = ["curl", "--silent", "--noproxy", "*", "--output", "/dev/null", "--write-out", "%{http_code}"]
    codes = {
        place: subprocess.run([*ask, place], capture_output=True, text=True, check=True).stdout
        for place in (f"{client['PREFECT_API_URL']}/admin/version", f"{client['AWS_ENDPOINT_URL_S3']}/ttl")
    }
    assert list(codes.values()) == ["401", "403"]

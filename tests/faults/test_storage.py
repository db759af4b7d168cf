"""Faults of S3, on the wire in front of a real server: 503, resets, silence, uploads cut short."""

import os
import subprocess
import sys
import time

import pytest
from conftest import SMALL, api, check_store, check_whole, leaderboard

from tests.projects import ROOT, Project
from tests.proxy import Proxy
from tests.services import until
from ttl.training.store import Store

SAID = {
    "busy": "Please reduce your request rate",
    "reset": "does not answer",
    "silent": "does not answer",
    "truncate": "does not answer",
}


LEAST_SECONDS = {"silent": 30}

PULL = """
from pathlib import Path
from prefect import flow
from flows.datasets import pull_dataset
from ttl.layout import Layout

@flow
def pulls():
    pull_dataset("{name}", Layout(root=Path.cwd()))

pulls()
"""
"""A machine has a dataset pulled, as every flow does first."""

LOCAL_REMOTE = ("remote", "modify", "--local", "storage", "endpointurl")


@pytest.fixture
def bucket(stack, monkeypatch):
    """Reach the stack's S3 server."""
    for name, value in stack.settings.client().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def address(bucket, request):
    """A prefix of its own, which is empty in the end."""
    name = f"s3://ttl/faults/{request.node.callspec.id if hasattr(request.node, 'callspec') else 'x'}"
    yield name
    store = Store(name)
    store.bucket.remove("", folder=True)


@pytest.mark.parametrize("kind", list(SAID))
def test_storage_that_fails_for_a_while(kind, stack, undisturbed, small, address, told):
    with Proxy(("127.0.0.1", stack.settings.ports["s3"])) as proxy:
        own = stack.settings.client() | {"AWS_ENDPOINT_URL_S3": proxy.address, "TTL_STORE": address}
        small.environment.update(
            {name: own[name] for name in own if name.startswith("AWS_")}, TTL_STORE=address
        )
        process = small.start("sweep")
        # Amid the training: the first checkpoint is on its way, or there.
        until(lambda: next((small.folder / "runs").glob(".partial/*/checkpoint-*.pt"), None), 90, "training")
        # It lasts until it is said, or the sweep has ended without a word.
        with proxy.fault(kind):
            began = time.monotonic()
            lines = []
            for line in process.stdout:
                lines.append(line)
                if SAID[kind] in line:
                    break
            until(lambda: time.monotonic() - began > LEAST_SECONDS.get(kind, 0), 60, "long enough")
        output = "".join(lines) + process.communicate(timeout=200)[0]
    told.lines += [(f"S3: {kind}", line) for line in output.splitlines() if "answer" in line]
    assert SAID[kind] in output
    assert "answers again after" in output
    assert output.count("does not answer") == output.count("answers again after")
    check_whole(small, undisturbed)
    check_store(address)


def test_two_machines_with_the_same_trials(stack, datasets, undisturbed, bucket, address, tmp_path, told):
    """Two folders, which share nothing but the store."""
    client = stack.settings.client()
    own = (
        api(stack)
        | {name: client[name] for name in client if name.startswith("AWS_")}
        | {"TTL_STORE": address}
    )
    machines = [Project.make(tmp_path / name, datasets, dict(own), **SMALL) for name in ("one", "other")]
    processes = [machine.start("sweep", "--slots", "1") for machine in machines]
    outputs = [process.communicate(timeout=250)[0] for process in processes]
    told.lines.append(("two machines, one store", " | ".join(outputs[0].splitlines()[:2])))
    for machine in machines:
        assert leaderboard(machine.folder).equals(undisturbed)
    check_store(address)
    # A result has one training's times, and both machines have the same.
    files = [sorted((machine.folder / "runs").glob("*/result.json")) for machine in machines]
    assert [path.read_text() for path in files[0]] == [path.read_text() for path in files[1]]


def test_dvcs_storage_fails_while_a_dataset_is_pulled(stack, bucket, tmp_path, told):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", stack.settings.repository, clone], check=True)
    environment = os.environ | api(stack) | {"TTL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}

    def pulls(name):
        return subprocess.Popen(
            [sys.executable, "-c", PULL.format(name=name)],
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with Proxy(("127.0.0.1", stack.settings.ports["s3"])) as proxy:
        subprocess.run(
            [sys.executable, "-m", "dvc", *LOCAL_REMOTE, proxy.address],
            cwd=clone,
            check=True,
        )
        with proxy.fault("busy"):
            process, missing = pulls("phantom"), pulls("nowhere")
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Retry 1/4" in line:
                    break
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, "".join(lines) + output
    assert (clone / "data" / "packed" / "phantom" / "dataset.json").is_file()
    told.lines.append(("DVC's storage: busy", lines[-1]))
    # What cannot pass is not tried again.
    output, _ = missing.communicate(timeout=200)
    assert "does not name data/packed/nowhere" in output
    assert "Retry" not in output

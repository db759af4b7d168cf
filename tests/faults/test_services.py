"""Faults of a deployment: of the flow, worker, server, database, a cluster's node; and a cancellation."""

import json

import psutil
import pytest
from conftest import LEFT_SECONDS, SMALL, check_nothing_is_left, check_store, check_whole

from tests.projects import Project
from tests.services import Deployment, left, until
from ttl.training.store import Store

PARAMETERS = {
    "backbones": ["resnet10t"],
    "sources": ["random"],
    "strategies": ["ttl"],
    "planner": "exhaustive",
    "recipe": {"base": "fast", "epochs": 4},
    "image_size": 32,
}
TRIALS = 3
"""Of the demo's images."""


@pytest.fixture
def deployment(stack, monkeypatch):
    """Use the stack as a client; its store has no trial of these before and after."""
    for name, value in stack.settings.client().items():
        monkeypatch.setenv(name, value)
    store = Store(stack.settings.client()["TTL_STORE"])
    store.bucket.remove("", folder=True)
    yield Deployment(stack, store)
    store.bucket.remove("", folder=True)


@pytest.fixture(scope="module")
def expected(stack, whole):
    """What the demo's images give without a fault: validation AUROC by cut, trained in the clone itself."""
    clone = stack.settings.folder / "clone"
    project = Project(
        clone, {"TTL_DEVICES": "", "PYTHONPATH": str(clone), "PREFECT_HOME": str(stack.settings.folder / "x")}
    )
    options = [
        "--backbone",
        "resnet10t",
        "--source",
        "random",
        "--strategy",
        "ttl",
        "--planner",
        "exhaustive",
    ]
    options += ["--recipe", json.dumps(PARAMETERS["recipe"]), "--image-size", str(PARAMETERS["image_size"])]
    # Beside the other sweep that no fault meets; then neither is on the machine any more.
    project.run("sweep", *options)
    whole[1].result()
    results = [json.loads(path.read_text()) for path in (clone / "runs").glob("*/result.json")]
    found = sorted(result["val_auroc"] for result in results)
    assert len(found) == TRIALS
    return found


def said(deployment, words):
    """Return the states of the run, of which one says these words."""
    states = deployment.states()
    assert words in states, states
    return " | ".join(states.splitlines())


def check_run(deployment):
    """Check that the store has it all, and the machine nothing of it."""
    check_store(deployment.stack.settings.client()["TTL_STORE"], TRIALS)
    until(lambda: not left(), LEFT_SECONDS, "all processes of the run have ended")


def scores(store):
    return sorted(store.result(trial_id)["val_auroc"] for trial_id in store.trials())


def test_the_flow_is_killed(deployment, expected, told):
    deployment.start(**PARAMETERS)
    until(deployment.training, 120, "it trains")
    deployment.engine().kill()
    assert deployment.ends("Completed") == "Completed"
    assert scores(deployment.store) == expected
    told.lines.append(("kill -9 of the flow", said(deployment, "it goes on where it was")))
    check_run(deployment)


def test_the_worker_is_killed(deployment, expected, stack, told):
    deployment.start(**PARAMETERS)
    until(deployment.training, 120, "it trains")
    worker = stack.processes.alive("worker")
    # The worker alone.
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    stack.services.worker()
    assert deployment.ends("Completed") == "Completed"
    assert scores(deployment.store) == expected
    told.lines.append(("kill -9 of the worker", said(deployment, "Completed")))
    check_run(deployment)


def kill_the_server(stack):
    stack.kill("prefect")
    stack.services.prefect()


def restart_the_database(stack):
    stack.restart("postgres")


@pytest.mark.parametrize("fault", [kill_the_server, restart_the_database])
def test_what_prefect_stands_on_fails(deployment, expected, stack, told, fault):
    deployment.start(**PARAMETERS)
    until(deployment.training, 120, "it trains")
    assert deployment.state() == "Running"
    fault(stack)
    assert deployment.ends("Completed") == "Completed"
    assert scores(deployment.store) == expected
    told.lines.append((fault.__name__.replace("_", " "), said(deployment, "Completed")))
    check_run(deployment)


def test_a_run_is_cancelled(deployment, expected, told):
    deployment.start(**PARAMETERS)
    until(deployment.training, 120, "it trains")
    deployment.cancel()
    until(lambda: not left(), LEFT_SECONDS + 30, "all processes of the run have ended")
    assert deployment.ends("Cancelled", seconds=120) == "Cancelled"
    before = deployment.store.trials()
    told.lines.append(("cancellation from Prefect", said(deployment, "Cancelled")))
    # What it had done is not done again.
    deployment.start(**PARAMETERS)
    assert deployment.ends("Completed") == "Completed"
    assert before <= deployment.store.trials()
    assert scores(deployment.store) == expected
    check_run(deployment)


def test_a_node_of_the_cluster_is_killed(stack, datasets, undisturbed, tmp_path, told):
    client = stack.settings.client()
    project = Project.make(tmp_path / "project", datasets, dict(client), **SMALL)
    del project.environment["TTL_STORE"]
    process = project.start("sweep", "--executor", "ray")
    until(lambda: next((project.folder / "runs").glob(".partial/*/checkpoint-*.pt"), None), 120, "it trains")
    stack.kill("ray-node")
    output, _ = process.communicate(timeout=250)
    stack.services.ray()
    lost = [line for line in output.splitlines() if "a machine of the cluster was lost" in line]
    assert lost, output
    told.lines.append(("kill -9 of a Ray node", lost[0]))
    check_whole(project, undisturbed)
    check_nothing_is_left(project)

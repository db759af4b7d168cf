"""The stack of services that integration tests need, as `make stack` has started it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from infra.stack.settings import PROJECT
from infra.stack.stack import ORDER, Stack
from tests.projects import ROOT

FOLDER = Path(os.environ.get("TTL_STACK") or PROJECT / ".stack")


def running_stack() -> Stack:
    """Return the stack; skip the test where it is not up."""
    if not (FOLDER / "settings.json").is_file():
        pytest.skip("needs the local stack: make stack")
    stack = Stack(FOLDER)
    if ended := [name for name in ORDER if stack.processes.alive(name) is None]:
        pytest.skip(f"needs the local stack, of which {', '.join(ended)} does not run: make stack")
    return stack


def until(condition, seconds, what, every=0.05):
    """Wait until something is so; asked again and again, it may take no more than so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {seconds} s: not {what}"
        time.sleep(every)
    return found


class Deployment:
    """Runs a flow's deployment and looks at it, each time through Prefect's own client."""

    def __init__(self, stack, store, flow="ttl-sweep"):
        self.stack, self.store, self.flow = stack, store, flow
        self.run_id = ""

    def start(self, **parameters):
        """Start a run with these parameters."""
        self.run_id = self.call("start", self.flow, json.dumps(parameters))

    def started(self):
        """Take the newest run that somebody else has started, if there is one."""
        self.run_id = self.call("newest", self.flow)
        return bool(self.run_id)

    def resume(self, **answer):
        """Give a suspended run what it waits for."""
        return self.call("resume", self.run_id, json.dumps(answer))

    def call(self, what, *arguments):
        # In a process of its own: the server goes away in these tests, and Prefect keeps connections.
        done = subprocess.run(
            [sys.executable, "-m", "tests.services", what, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=ROOT,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def state(self):
        """Return the name of the run's state; nothing while the server does not answer."""
        # Not by a process: one after another, they would take a core from what is tested.
        client = self.stack.settings.client()
        name, _, password = client["PREFECT_API_AUTH_STRING"].partition(":")
        address = f"{client['PREFECT_API_URL']}/flow_runs/{self.run_id}"
        try:
            answer = httpx.get(address, auth=(name, password), timeout=10, trust_env=False)
        except httpx.TransportError:
            return ""
        return answer.json()["state"]["name"] if answer.status_code == httpx.codes.OK else ""

    def states(self):
        """Return all states that the run has been in, and why."""
        return self.call("states", self.run_id)

    def logs(self):
        return self.call("logs", self.run_id)

    def training(self):
        """Return whether a trial's first epoch is over."""
        return bool(self.store.bucket.names(".checkpoints"))

    def engine(self):
        """Return the flow's process."""
        return next(one for one in psutil.process_iter() if "prefect.engine" in " ".join(_words(one)))

    def ends(self, *states, seconds=180):
        what = f"the run is {states}"
        try:
            return until(lambda: (found := self.state()) in states and found, seconds, what, every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}; it was {self.states()}; its logs: {self.logs()}") from None


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def left():
    """Return the processes of runs that there still are."""
    return [
        one
        for one in psutil.process_iter()
        if any(word in " ".join(_words(one)) for word in ("prefect.engine", "ttl.training.job"))
    ]


async def _client(what, *arguments):  # noqa: PLR0911 - one for each thing that is asked
    from prefect import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        ArtifactFilter,
        ArtifactFilterKey,
        FlowFilter,
        FlowFilterName,
        LogFilter,
        LogFilterFlowRunId,
    )
    from prefect.client.schemas.sorting import FlowRunSort  # noqa: PLC0415
    from prefect.states import Cancelling  # noqa: PLC0415

    async with get_client() as client:
        if what == "start":
            made = await client.read_deployment_by_name(f"{arguments[0]}/default")
            run = await client.create_flow_run_from_deployment(made.id, parameters=json.loads(arguments[1]))
            return str(run.id)
        if what == "newest":
            runs = await client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[arguments[0]])),
                sort=FlowRunSort.START_TIME_DESC,
                limit=1,
            )
            return str(runs[0].id) if runs else ""
        if what == "resume":
            done = await client.resume_flow_run(arguments[0], run_input=json.loads(arguments[1]))
            return str(done.status.value)
        if what == "states":
            states = await client.read_flow_run_states(arguments[0])
            return "\n".join(f"{state.name}: {state.message or ''}" for state in states)
        if what == "cancel":
            await client.set_flow_run_state(arguments[0], Cancelling(), force=False)
            return "cancelling"
        if what == "artifact":
            found = await client.read_latest_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[arguments[0]]))
            )
            return found[0].data
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[arguments[0]]))
        return "\n".join(log.message for log in await client.read_logs(wanted))


if __name__ == "__main__":
    os.environ.setdefault("DO_NOT_TRACK", "1")
    print(asyncio.run(_client(*sys.argv[1:])))  # noqa: T201

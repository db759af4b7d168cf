"""The stack of services that integration tests need, as `make stack` has started it."""

import os
import time
from pathlib import Path

import httpx
import psutil
import pytest

from infra.stack.settings import PROJECT
from infra.stack.stack import ORDER, Stack

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
    """Runs a flow's deployment and looks at it, by requests to Prefect's API.

    Not through Prefect's client, which keeps connections to a server that goes away in these tests, and to
    start a process for each would take a core from what is tested.
    """

    def __init__(self, stack, store, flow="ttl-sweep"):
        self.stack, self.store, self.flow = stack, store, flow
        self.run_id = ""

    def start(self, **parameters):
        """Start a run with these parameters."""
        deployment = self._ask("GET", f"deployments/name/{self.flow}/default")
        run = self._ask("POST", f"deployments/{deployment['id']}/create_flow_run", parameters=parameters)
        self.run_id = run["id"]

    def started(self):
        """Take the newest run that somebody else has started, if there is one."""
        flows = {"name": {"any_": [self.flow]}}
        runs = self._ask("POST", "flow_runs/filter", flows=flows, sort="START_TIME_DESC", limit=1)
        self.run_id = runs[0]["id"] if runs else ""
        return bool(self.run_id)

    def cancel(self):
        """Cancel the run, as the button of its page does."""
        self._ask("POST", f"flow_runs/{self.run_id}/set_state", state={"type": "CANCELLING"})

    def resume(self, **answer):
        """Give a suspended run what it waits for; return whether it was accepted."""
        return self._ask("POST", f"flow_runs/{self.run_id}/resume", run_input=answer)["status"]

    def state(self):
        """Return the name of the run's state; nothing while the server does not answer."""
        try:
            return self._ask("GET", f"flow_runs/{self.run_id}")["state"]["name"]
        except httpx.HTTPError:
            return ""

    def states(self):
        """Return all states that the run has been in, and why."""
        states = self._ask("GET", f"flow_run_states/?flow_run_id={self.run_id}")
        return "\n".join(f"{state['name']}: {state['message'] or ''}" for state in states)

    def logs(self):
        """Return what the run has logged."""
        logs = self._ask("POST", "logs/filter", logs={"flow_run_id": {"any_": [self.run_id]}})
        return "\n".join(log["message"] for log in logs)

    def artifact(self, key):
        """Return the newest artifact of this key."""
        return self._ask("POST", "artifacts/latest/filter", artifacts={"key": {"any_": [key]}})[0]["data"]

    def _ask(self, method, path, **body):
        client = self.stack.settings.client()
        name, _, password = client["PREFECT_API_AUTH_STRING"].partition(":")
        answer = httpx.request(
            method,
            f"{client['PREFECT_API_URL']}/{path}",
            json=body or None,
            auth=(name, password),
            timeout=10,
            trust_env=False,
        )
        answer.raise_for_status()
        return answer.json()

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

"""The stack, the sweep without faults, and what must be so after each fault."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import polars as pl
import psutil
import pytest

from tests.projects import ROOT, Project
from tests.services import running_stack, until
from ttl.search.results import LEADERBOARD
from ttl.training.devices import Lease, find_slots, take
from ttl.training.store import Store

TRIALS, EPOCHS = 2, 6

SMALL = {
    "backbones": ["resnet10t"],
    "strategies": ["ttl"],
    "cuts": ["layer2", "layer3"],
    "recipe": {"base": "fast", "epochs": EPOCHS, "batch_size": 16},
    "image_size": 96,
}
"""Two trials of a few seconds, one a slot. Without the whole network nothing is selected, nor exported."""

LEFT_SECONDS = 15
"""So soon after a fault nothing is left of what it hit."""

TIMES = ("train_seconds", "latency_ms")

COUNT_EPOCHS = """
import sys
if "ttl.training.job" in " ".join(sys.orig_argv):
    from ttl.training import checkpoint
    save = checkpoint.save

    def counted(folder, trial, epoch, *arguments, **options):
        path = save(folder, trial, epoch, *arguments, **options)
        with open({file!r}, "a") as file:
            file.write(f"{{trial.trial_id}} {{epoch}}\\n")
        return path

    checkpoint.save = counted
"""
"""Has a project's trainers write down each epoch that they have finished."""


@pytest.fixture(scope="session")
def stack():
    """The services, started by `make stack`."""
    return running_stack()


@dataclass
class Told:
    """What a person has read of each fault, for the table at the end."""

    lines: list[tuple[str, str]] = field(default_factory=list)


TOLD = pytest.StashKey[Told]()


@pytest.fixture(scope="session")
def told(pytestconfig):
    """Collect what was said, fault by fault."""
    return pytestconfig.stash.setdefault(TOLD, Told())


def pytest_terminal_summary(terminalreporter, config):
    """Print what was said."""
    if told := config.stash.get(TOLD, None):
        terminalreporter.section("faults, and what was said of them")
        for name, line in told.lines:
            terminalreporter.line(f"{name:30} {line[:170]}")


def leaderboard(folder):
    """Return a project's leaderboard, without what is a time."""
    return pl.read_csv(folder / "results" / LEADERBOARD).drop(TIMES)


@pytest.fixture(scope="session")
def whole(stack, datasets, tmp_path_factory):
    """A project, and its sweep that no fault meets: it has begun."""
    project = Project.make(tmp_path_factory.mktemp("whole") / "project", datasets, api(stack), **SMALL)
    with ThreadPoolExecutor(1) as aside:
        yield project, aside.submit(project.run, "sweep")


@pytest.fixture(scope="session")
def undisturbed(whole):
    """The leaderboard of the sweep that no fault has met."""
    project, running = whole
    _, output = running.result()
    board = leaderboard(project.folder)
    assert board["seeds"].to_list() == [1] * TRIALS, output
    return board


def api(stack):
    """Return the variables by which a command line uses the stack's Prefect server."""
    client = stack.settings.client()
    return {name: client[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME")}


@pytest.fixture
def small(stack, datasets, tmp_path):
    """A fresh project with the small sweep, which counts its epochs."""
    project = Project.make(tmp_path / "project", datasets, api(stack), **SMALL)
    trainers_run(project, COUNT_EPOCHS.format(file=str(project.folder / "epochs")))
    return project


def trainers_run(project, code):
    """Have the trainers of a project run some code first."""
    site = project.folder / "site"
    site.mkdir(exist_ok=True)
    with (site / "sitecustomize.py").open("a") as file:
        file.write(code)
    project.environment["PYTHONPATH"] = f"{site}:{ROOT}"


def checkpoint_of(project, epoch):
    """Return whether a trial of the project has got so far."""
    return next((project.folder / "runs").glob(f".partial/*/checkpoint-{epoch:06d}-*.pt"), None)


def trainers(folder):
    """Return the processes that train in a folder, launchers included."""
    return [one for one in psutil.process_iter() if _works_in(one, "ttl.training.job", str(folder))]


def _works_in(process, *words):
    try:
        return all(word in " ".join(process.cmdline()) for word in words)
    except psutil.Error:
        return False


def check_nothing_is_left(project):
    """Check that no process and no lease is left of a project's sweep."""
    until(lambda: not trainers(project.folder), LEFT_SECONDS, "all trainers have ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTL_DEVICES", str(project.folder / "devices"))
        for slot in find_slots(1):
            # A process that ends lets go of its files last.
            lease = until(partial(leased, slot), LEFT_SECONDS, f"{slot.name} is free")
            lease.release()


def leased(slot):
    """Return a lease on a slot, nothing if it is taken."""
    lease = take(slot)
    return lease if isinstance(lease, Lease) else None


def check_whole(project, undisturbed, *, again=0):
    """Check that each trial has one result, the undisturbed one, and nothing else is to be seen.

    Of the epochs that were finished, so many were trained `again`: none but where a checkpoint was damaged.
    """
    board = leaderboard(project.folder)
    assert board.equals(undisturbed), f"{board}\n{undisturbed}"
    results = list((project.folder / "runs").glob("*/result.json"))
    assert len(results) == TRIALS
    for path in results:
        values = json.loads(path.read_text())
        assert values["status"] == "completed"
        assert {one.name for one in path.parent.iterdir()} == {"result.json", *values["files"]}
    if (epochs := project.folder / "epochs").exists():
        finished = epochs.read_text().splitlines()
        assert set(finished) == {
            # The last leaves a result, and no checkpoint.
            f"{path.parent.name} {epoch}"
            for path in results
            for epoch in range(1, EPOCHS)
        }
        assert len(finished) == TRIALS * (EPOCHS - 1) + again
    check_nothing_is_left(project)


def check_store(address, trials=TRIALS):
    """Check that a store has one whole result of each trial, and no claim or checkpoint any more."""
    store = Store(address)
    assert len(store.trials()) == trials
    for trial_id in store.trials():
        assert store.result(trial_id)["status"] == "completed"
        folders = [name for name in store.bucket.names(trial_id) if name != "result.json"]
        assert len(folders) == 1
    for hidden in (".claims", ".checkpoints"):
        left = list(store.bucket.files.find(f"{store.bucket.root}/{hidden}"))
        assert not left, left

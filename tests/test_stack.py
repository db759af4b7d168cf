"""A stack's folder, database and secrets belong together."""

import os
import shutil

import psutil
import pytest

from infra.stack.processes import Processes
from infra.stack.settings import Settings
from tests.services import until


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "stack"
    Settings.of(tmp_path / "stack").purge()


def leave(settings):
    places = [settings.outside / "postgres" / "PG_VERSION", settings.temporary / "ray" / "session"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return places


def test_a_stack_keeps_what_it_has(folder):
    first = Settings.of(folder)
    places = leave(first)
    assert Settings.of(folder).secrets == first.secrets
    assert all(place.is_file() for place in places)


def test_a_stack_removed_by_hand_leaves_no_database_to_the_next_one_there(folder):
    first = Settings.of(folder)
    places = leave(first)
    shutil.rmtree(folder)
    second = Settings.of(folder)
    assert second.secrets != first.secrets
    assert not any(place.exists() for place in places)
    assert (folder / "settings.json").is_file()


def test_what_outlives_a_killed_service_ends_by_itself_unless_its_record_is_lost(tmp_path):
    processes = Processes(tmp_path)

    def start():
        child = "sleep 300 & wait"
        processes.start("service", ["sh", "-c", child], environment=dict(os.environ), cwd=tmp_path)
        service = processes.alive("service")
        return service, until(service.children, 20, "it has started what it starts")[0]

    try:
        service, child = start()
        service.kill()
        psutil.wait_procs([service], timeout=10)
        _, other = start()
        assert child.is_running()
        (tmp_path / "run" / "service.json").unlink()
        start()
        until(lambda: not child.is_running() and not other.is_running(), 20, "both have ended")
    finally:
        processes.kill("service")

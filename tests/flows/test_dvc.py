"""DVC's commands: one that hangs is ended, and whoever holds the lock does not hold it for good."""

import pytest
from filelock import FileLock

from flows import dvc
from ttl.errors import ServiceError


@pytest.fixture
def impatient(tmp_path, monkeypatch):
    monkeypatch.setenv("TTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dvc, "PATIENCE", 0.05)


def test_a_command_that_hangs_is_ended(impatient, tmp_path):
    with pytest.raises(ServiceError, match=r"`dvc version` was ended: it had run for 0 s"):
        dvc.run_dvc(tmp_path, "version")


def test_a_lock_that_another_holds_on_to_is_given_up(impatient):
    with (
        FileLock(dvc.machine_cache().with_name("dvc.lock")),
        pytest.raises(ServiceError, match=r"another process has held .*dvc\.lock"),
        dvc.dvc_lock(),
    ):
        pytest.fail("the lock was given twice")

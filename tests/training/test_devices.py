"""Leases on devices: real processes that hold, die and inherit; GPUs by an imitation of NVIDIA's library."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from ttl.errors import ServiceError, TrialError
from ttl.training import devices
from ttl.training.devices import Lease, Slot, Taken, find_slots, take

HOLD = """
import sys
from ttl.training.devices import Slot, take
lease = take(Slot(name="x", keys=tuple(sys.argv[1:])))
print(type(lease).__name__, flush=True)
sys.stdin.read()
"""

INHERIT = """
import subprocess, sys
from ttl.training.devices import Slot, take
lease = take(Slot(name="x", keys=("a",)))
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0, pass_fds=lease.fds)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TTL_DEVICES", str(tmp_path / "devices"))
    return tmp_path / "devices"


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def slot(*keys):
    return Slot(name="x", keys=keys)


def test_a_lease_keeps_others_out_and_ends_with_its_holder():
    holder, said = start(HOLD, "a")
    assert said == "Lease"
    taken = take(slot("a"))
    assert isinstance(taken, Taken)
    assert f"process {holder.pid} (python" in taken.by
    holder.kill()
    holder.wait()
    lease = take(slot("a"))
    assert isinstance(lease, Lease)
    other, said = start(HOLD, "a")
    assert said == "Taken"
    other.communicate()
    lease.release()
    assert isinstance(take(slot("a")), Lease)


def test_who_was_given_a_lease_keeps_it_when_its_giver_is_killed():
    giver, child = start(INHERIT)
    giver.kill()
    giver.wait()
    taken = take(slot("a"))
    assert isinstance(taken, Taken)
    assert taken.by == "a process that has inherited it"
    orphan = psutil.Process(int(child))
    orphan.kill()
    psutil.wait_procs([orphan], timeout=10)
    assert isinstance(take(slot("a")), Lease)


def test_a_slot_of_two_devices_is_leased_as_a_whole_or_not_at_all():
    holder, _ = start(HOLD, "b")
    assert isinstance(take(slot("a", "b")), Taken)
    lease = take(slot("a"))
    assert isinstance(lease, Lease), "what could not be had as a whole was kept in part"
    lease.release()
    holder.kill()
    holder.wait()
    both = take(slot("b", "a"))
    assert isinstance(both, Lease)
    assert len(both.fds) == 2


def test_locks_are_for_all_users_whatever_the_mask(folder):
    mask = os.umask(0o077)
    try:
        take(slot("a")).release()
    finally:
        os.umask(mask)
    assert (folder / "a").stat().st_mode & 0o777 == 0o666
    assert folder.stat().st_mode & 0o7777 == 0o1777


def test_a_lock_is_no_way_to_another_file(folder, tmp_path):
    folder.mkdir()
    (tmp_path / "precious").write_text("content")
    (folder / "a").symlink_to(tmp_path / "precious")
    with pytest.raises(ServiceError, match=r"name a folder that all users .* in TTL_DEVICES"):
        take(slot("a"))
    assert (tmp_path / "precious").read_text() == "content"


@pytest.mark.parametrize(
    ("visible", "found"),
    [("1,0", ["1", "0"]), ("GPU-8932f937,MIG-41b3", ["GPU-8932f937", "MIG-41b3"]), ("0,-1,1", ["0"])],
)
def test_gpus_are_those_that_cuda_would_use(visible, found, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.cuda for slot in find_slots(1)] == [(name,) for name in found]
    with pytest.raises(TrialError, match=f"wants 3 processes, and this machine has {len(found)} GPUs"):
        find_slots(3)


def test_the_same_gpu_has_one_key_whatever_it_is_called(monkeypatch):
    uuids = {"0": "GPU-aa", "1": "GPU-bb"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for visible in ("1", "GPU-bb"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        properties = SimpleNamespace(uuid=uuids.get(visible, visible).removeprefix("GPU-"))
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _, found=properties: found)
        assert find_slots(1)[0].keys == ("GPU-bb",)


@pytest.mark.parametrize("visible", ["", "-1"])
def test_without_gpus_slots_are_the_cores_that_may_be_used(visible, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(devices, "_cores", lambda: [4, 5, 6])
    assert {slot.device for slot in find_slots(1)} == {"cpu"}
    assert [slot.keys for slot in find_slots(1)] == [("cpu-4",), ("cpu-5",), ("cpu-6",)]
    assert [slot.keys for slot in find_slots(2)] == [("cpu-4", "cpu-5")]
    assert [slot.keys for slot in find_slots(4)] == [("cpu-4", "cpu-5", "cpu-6")]
    assert len(find_slots(1, limit=2)) == 2


class Nvml:
    """Imitates what is used of pynvml; no GPU was there to test with."""

    class NVMLError(Exception):
        pass

    def __init__(self, pids, error=None):
        self.pids, self.error = pids, error

    def nvmlInit(self):  # noqa: N802
        if self.error == "init":
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if self.error == "handle":
            raise self.NVMLError("Not Supported")
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, uuid):  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=3_100_000_000) for pid in self.pids.get(uuid, ())]


def test_a_gpu_that_anothers_process_uses_is_taken(monkeypatch):
    child, _ = start(HOLD, "elsewhere")
    stranger = os.getppid()
    monkeypatch.setitem(
        sys.modules, "pynvml", Nvml({"GPU-aa": [stranger], "GPU-bb": [os.getpid(), child.pid]})
    )
    taken = take(slot("GPU-aa"))
    assert isinstance(taken, Taken)
    assert taken.by.startswith(f"process {stranger} (")
    assert taken.by.endswith(", 3.1 GB)")
    assert isinstance(take(slot("GPU-bb")), Lease), "our own trainers were taken for another's"
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({}))
    lease = take(slot("GPU-aa"))
    assert isinstance(lease, Lease), "the lock of a busy device was kept"
    child.kill()
    child.wait()


@pytest.mark.parametrize(("error", "words"), [("init", "Driver Not Loaded"), ("handle", "Not Supported")])
def test_where_nobody_can_see_who_uses_a_gpu_the_lease_still_counts(error, words, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({}, error))
    lease = take(slot("GPU-aa"))
    assert isinstance(lease, Lease)
    assert words in caplog.text
    assert isinstance(take(slot("GPU-aa")), Taken)

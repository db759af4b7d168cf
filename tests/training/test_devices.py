"""Leases on devices: real processes that hold, die and inherit; GPUs by an imitation of NVIDIA's library."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ttl.errors import ServiceError, TrialError
from ttl.training import devices, gpus
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

NOBODY = "import os; os.umask(0o077); os.setgroups([]); os.setgid(65534); os.setuid(65534)"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TTL_DEVICES", str(tmp_path / "devices"))
    gpus._warn.cache_clear()
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
    assert taken.by.startswith("a process that has inherited it (python")
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
    assert len(both.fds) == 3, "of each device, and of the folder"


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
    """Imitates what is used of pynvml; `tests/gpu` has the real one."""

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


def test_what_cannot_be_signed_is_leased_all_the_same(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lease = take(slot("a"))
    assert take(slot("a")).by == "another process"
    lease.release()
    assert isinstance(take(slot("a")), Lease)


def test_what_cannot_be_locked_is_said_and_nothing_is_kept(monkeypatch):
    take(slot("a")).release()
    before = psutil.Process().num_fds()
    with monkeypatch.context() as patch:
        patch.setattr(devices.fcntl, "flock", unlockable)
        with pytest.raises(ServiceError, match=r"No locks available.*TTL_DEVICES"):
            take(slot("a"))
    assert psutil.Process().num_fds() == before


def unlockable(*_):
    raise OSError(37, "No locks available")


def test_a_failed_look_leaves_nothing_taken_and_nothing_open(monkeypatch):
    holder, _ = start(HOLD, "b")
    take(slot("a")).release()
    before = psutil.Process().num_fds()
    assert isinstance(take(slot("a", "b")), Taken)
    monkeypatch.setattr(devices, "stranger", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(slot("a"))
    monkeypatch.undo()
    assert psutil.Process().num_fds() == before
    holder.kill()
    holder.wait()


def test_what_was_given_a_lease_keeps_it_when_its_giver_releases():
    lease = take(slot("a"))
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    heir = subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=lease.fds)
    lease.release()
    assert take(slot("a")).by == "another process"
    heir.communicate()
    assert isinstance(take(slot("a")), Lease)


def test_only_a_living_holder_is_named(folder):
    giver, child = start(INHERIT)
    giver.kill()
    # It has ended, and its parent has not asked how yet.
    os.waitid(os.P_PID, giver.pid, os.WEXITED | os.WNOWAIT)
    assert take(slot("a")).by.startswith("a process that has inherited it (python")
    giver.wait()
    psutil.Process(int(child)).kill()
    lease = take(slot("own"))
    # Its number was another's, whose lock this was a minute before this process began.
    note = {"pid": os.getpid(), "what": "ttl", "since": psutil.Process().create_time() - 60}
    (folder / "own").write_text(json.dumps(note))
    assert take(slot("own")).by.startswith("a process that has inherited it (ttl, since ")
    lease.release()
    assert (folder / "own").read_text() == "", "the next one could be taken for this one"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"pid": "x"}', "[" * 5000, '{"pid": 1, "since": 1e300}', "\xff"]
)
def test_any_text_in_a_lock_is_put_up_with(text, folder):
    lease = take(slot("a"))
    (folder / "a").write_text(text, encoding="latin-1")
    assert take(slot("a")).by == "another process"
    lease.release()


def test_a_note_cannot_write_on_a_terminal(folder):
    lease = take(slot("a"))
    note = {"pid": os.getpid(), "what": "\x1b[31m" + "x" * 200, "since": time.time()}
    (folder / "a").write_text(json.dumps(note))
    by = take(slot("a")).by
    assert by.isprintable()
    assert len(by) < 130
    lease.release()


def test_a_lock_that_was_removed_is_not_held_beside_its_successor(monkeypatch):
    whole, opened = devices._open, []

    def remove_the_first(path):
        opened.append(whole(path))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(devices, "_open", remove_the_first)
    lease = take(slot("a"))
    assert isinstance(lease, Lease)
    assert isinstance(take(slot("a")), Taken)
    lease.release()


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles")
def test_what_cleans_tmp_leaves_a_lock_that_is_held(folder, tmp_path):
    lease = take(slot("a"))
    for path in (folder / "a", folder):
        os.utime(path, (0, 0))
    rules = tmp_path / "rules.conf"
    # By access and modification alone: when its inode was changed cannot be set.
    rules.write_text(f"e {tmp_path} - - - aAmM:1d\n")
    command = ["systemd-tmpfiles", "--clean", f"--prefix={tmp_path}", str(rules)]
    subprocess.run(command, check=True)
    assert (folder / "a").exists()
    lease.release()
    os.utime(folder / "a", (0, 0))
    subprocess.run(command, check=True)
    assert not (folder / "a").exists(), "it does not clean at all"


def test_a_lock_is_no_other_name_of_a_file(folder, tmp_path):
    folder.mkdir()
    (tmp_path / "precious").write_text("content")
    (folder / "a").hardlink_to(tmp_path / "precious")
    with pytest.raises(ServiceError, match="not a plain file"):
        take(slot("a"))
    assert (tmp_path / "precious").read_text() == "content"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be two users")
def test_two_users_share_the_locks(monkeypatch):
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        monkeypatch.setenv("TTL_DEVICES", f"{shared}/devices")
        take(slot("cpu-0")).release()
        # Not before the imports: what is root's may be closed to others.
        holder, said = start(HOLD.replace("lease =", f"{NOBODY}\nlease ="), "cpu-0", "cpu-1")
        assert said == "Lease"
        assert f"process {holder.pid} (" in take(slot("cpu-1")).by
        holder.kill()
        holder.wait()
        assert Path(shared, "devices", "cpu-1").stat().st_uid == 65534
        lease = take(slot("cpu-0", "cpu-1"))
        assert isinstance(lease, Lease)
        lease.release()


def test_a_device_that_is_waited_for_is_warned_of_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({}, "handle"))
    for _ in range(3):
        take(slot("GPU-aa")).release()
    assert sum("cannot be seen" in record.message for record in caplog.records) == 1


def test_a_user_of_a_gpu_that_is_not_seen_here_is_a_user(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({"GPU-aa": [ended.pid]}))
    # It may end between two looks at it.
    monkeypatch.setattr(psutil, "pid_exists", lambda _: True)
    assert take(slot("GPU-aa")).by == f"process {ended.pid} (not seen, 3.1 GB)"


def test_the_beginning_of_a_uuid_is_the_same_gpu(monkeypatch):
    uuid = "8932f937-d72c-4106-c12f-20bd9faed9f6"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(uuid=uuid))
    for visible in ("GPU-8932f937", f"GPU-{uuid}", "3"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert find_slots(1)[0].keys == (f"GPU-{uuid}",)

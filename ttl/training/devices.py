"""The devices of this machine, in slots, and leases on them that no two sweeps hold at once.

A lease is a lock of the operating system on a file that stands for a device: it ends with the processes that
hold it, however they end. It holds among processes that see the same folder of locks: `TTL_DEVICES`, or
`ttl-devices` in the folder for temporary files.
"""

import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ttl.errors import ServiceError, TrialError

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "TTL_DEVICES"
LARGEST_CPU_SLOTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The devices of one job: CUDA devices by number or UUID, or `threads` of the CPU for each process.

    `keys` names each device as every process on this machine would: whatever CUDA_VISIBLE_DEVICES calls it.
    """

    name: str
    keys: tuple[str, ...]
    processes: int = 1
    cuda: tuple[str, ...] = ()
    threads: int = 1

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.cuda else "cpu"


@dataclass(frozen=True, slots=True)
class Taken:
    """A slot that cannot be leased now, and whose it is."""

    slot: Slot
    by: str


class Lease:
    """The locks on the devices of a slot.

    A process that is given the descriptors `fds` holds them too: the devices stay taken until it has ended.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self.fds = tuple(fds)

    def release(self) -> None:
        """Let go of the devices; whoever was given the descriptors keeps them."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


def find_slots(processes: int, limit: int | None = None) -> tuple[Slot, ...]:
    """Return this machine's slots for jobs of so many processes: by GPU where there are any, else by core.

    Each process on the CPU has one thread: many small trials side by side make better use of cores than one
    spread over all, and the same number of threads gives the same result. `limit` takes no more than so many.
    """
    devices = _cuda_devices()
    if devices:
        count = len(devices) // processes
        if count == 0:
            raise TrialError(f"a job wants {processes} processes, and this machine has {len(devices)} GPUs")
        keys = _gpu_keys(devices)
        groups = [range(i * processes, (i + 1) * processes) for i in range(count)]
        slots = tuple(
            Slot(
                name="gpu " + "+".join(devices[i] for i in group),
                keys=tuple(keys[i] for i in group),
                processes=processes,
                cuda=tuple(devices[i] for i in group),
            )
            for group in groups
        )
    else:
        cores = _cores()
        count = max(1, min(len(cores) // processes, LARGEST_CPU_SLOTS))
        slots = tuple(
            Slot(
                name=f"cpu {i}",
                keys=tuple(f"cpu-{core}" for core in cores[i * processes : (i + 1) * processes]),
                processes=processes,
            )
            for i in range(count)
        )
    return slots[:limit]


def take(slot: Slot) -> Lease | Taken:
    """Lease all devices of a slot, without waiting; or say whose one of them is.

    A GPU that another's process computes on is taken too. Cores are shared by the operating system: of them,
    leases alone count. Raises `ServiceError` if the folder of locks cannot be used.
    """
    fds: list[int] = []
    for key in sorted(slot.keys):
        fd = _open(key)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = _holder(fd)
            os.close(fd)
            Lease(fds).release()
            return Taken(slot, by)
        fds.append(fd)
        _sign(fd)
    if by := _stranger(slot.keys):
        Lease(fds).release()
        return Taken(slot, by)
    return Lease(fds)


def _open(key: str) -> int:
    """Open the file that stands for a device. It is never removed: two could then hold `the same` lock."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir()) / "ttl-devices")
    path = folder / key.replace("/", "-")
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            # For all users; each can remove his own files alone.
            folder.chmod(0o1777)
        for _ in range(2):
            try:
                # Not created where it exists: Linux refuses that for another user's file in such a folder.
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                try:
                    created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
                except FileExistsError:
                    continue
                os.fchmod(created, stat.S_IMODE(0o666))
                return created
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ServiceError(
            f"the lock {path} cannot be opened ({error.strerror}); name a folder that all users of this "
            f"machine's devices can write to in {FOLDER_VARIABLE}"
        ) from error


def _sign(fd: int) -> None:
    """Say in a lock's file who holds it."""
    started = time.strftime("%H:%M")
    os.truncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {_command(psutil.Process())}, since {started}".encode(), 0)


def _holder(fd: int) -> str:
    """Return who holds a lock: its file says so, unless that process has gone and left it to another."""
    pid, _, what = os.pread(fd, 1000, 0).decode(errors="replace").partition(" ")
    if pid.isdecimal() and psutil.pid_exists(int(pid)):
        return f"process {pid} ({what})"
    return "a process that has inherited it"


def _stranger(keys: Sequence[str]) -> str:
    """Return which other's process computes on one of these GPUs; nothing if none does, or none is a GPU."""
    uuids = [key for key in keys if not key.startswith("cpu-")]
    if not uuids:
        return ""
    own = {process.pid for process in psutil.Process().children(recursive=True)} | {os.getpid()}
    with _nvml() as nvml:
        if nvml is None:
            return ""
        for uuid in uuids:
            try:
                found = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID(uuid))
            except nvml.NVMLError as error:
                # It still has our own lock.
                logger.warning("whether others use %s cannot be seen: %s", uuid, error)
                continue
            for one in found:
                if one.pid not in own:
                    command = _command(psutil.Process(one.pid)) if psutil.pid_exists(one.pid) else "not seen"
                    return f"process {one.pid} ({command}, {(one.usedGpuMemory or 0) / 1e9:.1f} GB)"
    return ""


def _gpu_keys(devices: Sequence[str]) -> tuple[str, ...]:
    """Return the UUIDs of CUDA devices; a name as it is where it cannot be looked up."""
    if all(name.startswith(("GPU-", "MIG-")) for name in devices):
        return tuple(devices)
    import torch  # noqa: PLC0415 - it takes seconds to import, and a finished sweep needs none of it

    # CUDA's order of devices need not be the driver's: only CUDA knows which one it calls 0.
    if torch.cuda.device_count() != len(devices):
        return tuple(f"gpu-{name}" for name in devices)
    found = [str(torch.cuda.get_device_properties(i).uuid) for i in range(len(devices))]
    return tuple(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in found)


@contextmanager
def _nvml() -> Iterator[Any]:
    """Give NVIDIA's management library, None where there is none."""
    import pynvml  # noqa: PLC0415 - for machines with GPUs alone

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.warning("whether others use this machine's GPUs cannot be seen: %s", error)
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _cuda_devices() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [name.strip() for name in visible.split(",")]
        # As CUDA reads it: nothing counts from the first entry that names no device.
        end = next((i for i, name in enumerate(named) if name in ("", "-1", "NoDevFiles")), len(named))
        return tuple(named[:end])
    import torch  # noqa: PLC0415 - it takes seconds to import, and a finished sweep needs none of it

    return tuple(map(str, range(torch.cuda.device_count())))


def _cores() -> list[int]:
    """Return the cores that this process may use: a scheduler may have granted a part of the machine's."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return sorted(process.cpu_affinity())
    return list(range(os.cpu_count() or 1))


def _command(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return "not seen"
    names = [word.rpartition("/")[2] for word in words[:4]]
    return " ".join(names)[:80]

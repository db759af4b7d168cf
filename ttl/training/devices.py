"""The devices of this machine, in slots, and leases on them that no two sweeps hold at once.

A lease is a lock of the operating system on a file that stands for a device: it ends with the processes that
hold it, however they end. It holds among processes that see the same folder of locks: `TTL_DEVICES`, or
`ttl-devices` in the folder for temporary files.
"""

import errno
import fcntl
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from ttl.errors import ServiceError, TrialError
from ttl.training.gpus import command_of, cuda_devices, gpu_keys, printable, stranger

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "TTL_DEVICES"

MOST_CPU_SLOTS = 8
"""So many cores of a machine without GPUs a sweep takes, if it is not told otherwise."""


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
        fds, self.fds = self.fds, ()
        for fd in fds:
            _let_go(fd)


def find_slots(processes: int, limit: int | None = None) -> tuple[Slot, ...]:
    """Return this machine's slots for jobs of so many processes: by GPU where there are any, else by core.

    Each process on the CPU has one thread: many small trials side by side make better use of cores than one
    spread over all, and the same number of threads gives the same result. `limit` takes no more than so many.
    """
    devices = cuda_devices()
    if devices:
        count = len(devices) // processes
        if count == 0:
            raise TrialError(f"a job wants {processes} processes, and this machine has {len(devices)} GPUs")
        keys = gpu_keys(devices)
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
        count = max(1, len(cores) // processes)
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
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir()) / "ttl-devices")
    with ExitStack() as undo:
        fds: list[int] = []
        path = folder
        try:
            fds.append(_keep(folder))
            undo.callback(_let_go, fds[0])
            for key in sorted(set(slot.keys)):
                path = folder / key.replace("/", "-")
                fd, locked = _lock(path)
                undo.callback(_let_go if locked else os.close, fd)
                if not locked:
                    return Taken(slot, _holder(fd))
                fds.append(fd)
                _sign(fd)
        except OSError as error:
            raise ServiceError(
                f"the lock {path} cannot be taken ({error.strerror}); name a folder that all users of this "
                f"machine's devices can write to in {FOLDER_VARIABLE}"
            ) from error
        if by := stranger(slot.keys):
            return Taken(slot, by)
        undo.pop_all()
        return Lease(fds)


def _keep(folder: Path) -> int:
    """Return the folder of locks, opened; it is made if need be.

    Its own lock keeps those who clean /tmp from it: systemd before 254 deletes files in it that are locked.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        # For all users; each can remove his own files alone.
        folder.chmod(0o1777)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return fd


def _lock(path: Path) -> tuple[int, bool]:
    """Open the file that stands for a device; return it, and whether it could be locked.

    It is never removed: two could then hold `the same` lock.
    """
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Others may have removed it all the same.
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd, True
        except BlockingIOError:
            return fd, False
        except FileNotFoundError:
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # Not created where it exists: Linux refuses that for another user's file in such a folder.
        fd = os.open(path, flags)
    except FileNotFoundError:
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return _open(path)
        os.fchmod(fd, 0o666)
    found = os.fstat(fd)
    # It is written to: it must not be another name of something else.
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file of one name")
    return fd


def _sign(fd: int) -> None:
    """Say in a lock's file who holds it."""
    note = {"pid": os.getpid(), "what": command_of(os.getpid()), "since": time.time()}
    os.truncate(fd, 0)
    # It is only for those who wait: a full disk is no reason not to lease.
    with suppress(OSError):
        os.pwrite(fd, json.dumps(note, ensure_ascii=False).encode(), 0)


def _let_go(fd: int) -> None:
    # The next holder must not be taken for this one before it has signed. A folder cannot be emptied.
    with suppress(OSError):
        os.truncate(fd, 0)
    os.close(fd)


def _holder(fd: int) -> str:
    """Return who holds a lock, by what its file says: anybody may have written that."""
    try:
        note = json.loads(os.pread(fd, 600, 0))
        pid, since = int(note["pid"]), datetime.fromtimestamp(note["since"])
        day = "" if since.date() == datetime.now().date() else "%Y-%m-%d "
        what = f"({printable(str(note['what']))}, since {since.strftime(day + '%H:%M')})"
        alive = _is_alive(pid, note["since"])
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "another process"
    return f"process {pid} {what}" if alive else f"a process that has inherited it {what}"


def _is_alive(pid: int, since: float) -> bool:
    try:
        process = psutil.Process(pid)
        # One that began later only has the same number; when it began is known to the second.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + 2
    except psutil.Error as error:
        return isinstance(error, psutil.AccessDenied)


def _cores() -> list[int]:
    """Return the cores that this process may use: a scheduler may have granted a part of the machine's."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return sorted(process.cpu_affinity())
    return list(range(os.cpu_count() or 1))

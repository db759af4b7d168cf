"""TEMPORARY."""

import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from ttl.errors import TrialError

LARGEST_CPU_SLOTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The devices of one job: CUDA devices by number or UUID, or `threads` of the CPU for each process."""

    name: str
    processes: int = 1
    cuda: tuple[str, ...] = ()
    threads: int = 1

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.cuda else "cpu"


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
        groups = [devices[i * processes : (i + 1) * processes] for i in range(count)]
        slots = tuple(
            Slot(name="gpu " + "+".join(group), processes=processes, cuda=group) for group in groups
        )
    else:
        count = max(1, min(_cores() // processes, LARGEST_CPU_SLOTS))
        slots = tuple(Slot(name=f"cpu {i}", processes=processes) for i in range(count))
    return slots[:limit]


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


def _cores() -> int:
    """Return the cores that this process may use: a scheduler may have granted a part of the machine's."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1


@dataclass
class Taken:
    slot: Slot
    by: str


class Lease:
    def __init__(self, files):
        self.files = files

    @property
    def fds(self):
        return tuple(f.fileno() for f in self.files)

    def release(self):
        for f in self.files:
            f.close()
        self.files = []


def take(slot):
    folder = Path(os.environ.get("TTL_DEVICES") or Path(tempfile.gettempdir()) / "ttl-devices")
    folder.mkdir(exist_ok=True)
    f = (folder / slot.name.replace(" ", "-")).open("a")
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        f.close()
        return Taken(slot, "somebody")
    return Lease([f])

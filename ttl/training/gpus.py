"""NVIDIA's GPUs: which there are, what every process calls them, and who else computes on one."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import psutil

logger = logging.getLogger(__name__)


def cuda_devices() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [name.strip() for name in visible.split(",")]
        # As CUDA reads it: nothing counts from the first entry that names no device.
        end = next((i for i, name in enumerate(named) if name in ("", "-1", "NoDevFiles")), len(named))
        return tuple(named[:end])
    import torch  # noqa: PLC0415 - it takes seconds to import, and a finished sweep needs none of it

    return tuple(map(str, range(torch.cuda.device_count())))


def gpu_keys(devices: Sequence[str]) -> tuple[str, ...]:
    """Return the UUIDs of CUDA devices; a name as it is where it cannot be looked up."""
    # CUDA takes the beginning of a UUID for the whole.
    if all(name.startswith("MIG-") or (name.startswith("GPU-") and len(name) == 40) for name in devices):
        return tuple(devices)
    import torch  # noqa: PLC0415 - it takes seconds to import, and a finished sweep needs none of it

    # CUDA's order of devices need not be the driver's: only CUDA knows which one it calls 0.
    if torch.cuda.device_count() != len(devices):
        _warn(
            f"CUDA does not see {', '.join(devices)}: another sweep that calls one of them by another name "
            "does not see its lease"
        )
        return tuple(f"gpu-{name}" for name in devices)
    found = [str(torch.cuda.get_device_properties(i).uuid) for i in range(len(devices))]
    return tuple(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in found)


def stranger(keys: Sequence[str]) -> str:
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
                _warn(f"whether others use {uuid} cannot be seen: {error}")
                continue
            for one in found:
                if one.pid not in own:
                    memory = f", {one.usedGpuMemory / 1e9:.1f} GB" if one.usedGpuMemory else ""
                    return f"process {one.pid} ({command_of(one.pid)}{memory})"
    return ""


def command_of(pid: int) -> str:
    """Return what a process runs, in few words."""
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return "not seen"
    return printable(" ".join(word.rpartition("/")[2] for word in words[:4]))


def printable(text: str) -> str:
    """Return the beginning of a text that anybody may have written, fit for a terminal."""
    return "".join(letter for letter in text if letter.isprintable())[:80]


@contextmanager
def _nvml() -> Iterator[Any]:
    """Give NVIDIA's management library, None where there is none."""
    import pynvml  # noqa: PLC0415 - for machines with GPUs alone

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _warn(f"whether others use this machine's GPUs cannot be seen: {error}")
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@cache
def _warn(text: str) -> None:
    """Say it once: a device that is waited for is looked at again and again."""
    logger.warning(text)

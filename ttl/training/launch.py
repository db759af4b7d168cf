"""Launching jobs: a pack of steps under `accelerate launch`, on the devices of one slot."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import yaml

from ttl.errors import TrialError
from ttl.processes import kill_children
from ttl.training.events import ENDS, Event, decode
from ttl.training.runs import Runs
from ttl.training.trial import Step

OnEvent = Callable[[Event], None]

STOPPING = threading.Event()

LARGEST_CPU_SLOTS = 8
LOG_LINES = 40


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


def stop() -> None:
    """End all jobs of this process, for good: their trials are not failed, and resume in the next sweep."""
    STOPPING.set()
    kill_children()


def run_job(steps: Sequence[Step], *, runs: Runs, datasets: Path, slot: Slot, on_event: OnEvent) -> None:
    """Run a pack of steps until each has a result, failed ones included.

    All trials have one number of processes and one precision. When a job dies, the trial that it was at
    becomes `failed` with the reason, and the rest is launched again.
    """
    shared = {(step.trial.processes, step.trial.recipe.precision) for step in steps}
    assert shared == {(slot.processes, steps[0].trial.recipe.precision)}, f"a pack mixes {shared}"

    def on_wait(trial_id: str) -> None:
        on_event(Event(kind="message", trial_id=trial_id, text="another sweep is at it; waiting for its end"))

    with runs.claim([step.trial.trial_id for step in steps], on_wait) as claims:
        _run_claimed(steps, claims, runs=runs, datasets=datasets, slot=slot, on_event=on_event)


def _run_claimed(
    steps: Sequence[Step],
    claims: tuple[int, ...],
    *,
    runs: Runs,
    datasets: Path,
    slot: Slot,
    on_event: OnEvent,
) -> None:
    # Another sweep may have run some of them while this one waited for its claim.
    waiting = [step for step in steps if not runs.has_reached(step)]
    while waiting:
        job = Job(waiting, claims, runs=runs, datasets=datasets, slot=slot)
        current, reason = job.run(on_event)
        if STOPPING.is_set():
            raise TrialError("the sweep was stopped")
        if reason is None:
            return
        # A job that dies before its first trial would die so again.
        lost = [step for step in waiting if current is None or step.trial.trial_id == current]
        for step in lost:
            # It may have been killed between publishing a result and saying so.
            if step.trial.trial_id not in job.ended and not runs.has_reached(step):
                runs.publish_failure(step.trial, reason)
                on_event(Event(kind="failed", trial_id=step.trial.trial_id, text=reason))
        done = {step.trial.trial_id for step in lost} | job.ended
        waiting = [step for step in waiting if step.trial.trial_id not in done]


class Job:
    """One launch of Accelerate."""

    def __init__(
        self, steps: Sequence[Step], claims: tuple[int, ...], *, runs: Runs, datasets: Path, slot: Slot
    ) -> None:
        self.claims = claims
        self.steps, self.runs, self.datasets, self.slot = steps, runs, datasets, slot
        self.ended: set[str] = set()

    def run(self, on_event: OnEvent) -> tuple[str | None, str | None]:
        """Run the job; return the trial that it was at, and why it died (None if it ended well)."""
        stem = self.runs.jobs() / uuid4().hex[:12]
        pack, config, log = (stem.with_suffix(suffix) for suffix in (".json", ".yaml", ".log"))
        pack.write_text(json.dumps(self._pack()), encoding="utf-8")
        # Everything is said here, so that a configuration in the user's home cannot change a result.
        config.write_text(yaml.safe_dump(self._config()), encoding="utf-8")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += [
            "--num_cpu_threads_per_process",
            str(self.slot.threads),
            "-m",
            "ttl.training.job",
            str(pack),
        ]
        current: str | None = None
        messages: dict[str, str] = {}
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=self.claims,
                start_new_session=True,
            )
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    event = decode(line)
                    if event is None:
                        errors.write(line)
                        continue
                    if event.kind == "message":
                        messages[event.trial_id] = event.text
                        continue
                    current = None if event.kind in ENDS else event.trial_id
                    if current is None:
                        self.ended.add(event.trial_id)
                    on_event(event)
                code = process.wait()
            finally:
                kill_children(process.pid)
                process.kill()
                process.wait()
        unfinished = [step for step in self.steps if step.trial.trial_id not in self.ended]
        if code == 0 and not unfinished:
            for path in (pack, config, log):
                path.unlink()
            return None, None
        said = messages.get(current or "")
        return current or self._next(unfinished), said or f"the job died: {_reason(code, log)}; see {log}"

    def _next(self, unfinished: Sequence[Step]) -> str | None:
        """Between two trials it is the next one's; before the first, nobody's."""
        return unfinished[0].trial.trial_id if self.ended and unfinished else None

    def _pack(self) -> dict[str, Any]:
        return {
            "steps": [step.to_dict() for step in self.steps],
            "runs": str(self.runs.root.resolve()),
            "datasets": str(self.datasets.resolve()),
            "precision": self.steps[0].trial.recipe.precision,
            "device": self.slot.device,
            "parent": os.getpid(),
        }

    def _config(self) -> dict[str, Any]:
        several = self.slot.processes > 1
        return {
            "compute_environment": "LOCAL_MACHINE",
            # Of several processes on the CPU, the launcher for GPUs starts them and the job says `cpu`:
            # Accelerate's own way for the CPU needs an MPI.
            "distributed_type": "MULTI_GPU" if several else "NO",
            "use_cpu": False,
            "num_processes": self.slot.processes,
            "num_machines": 1,
            "machine_rank": 0,
            "main_process_port": 0,
            "mixed_precision": self.steps[0].trial.recipe.precision,
            "downcast_bf16": "no",
            "debug": False,
        }

    def _environment(self) -> dict[str, str]:
        own = {
            "OMP_NUM_THREADS": str(self.slot.threads),
            "CUDA_VISIBLE_DEVICES": ",".join(self.slot.cuda),
            "PYTHONUNBUFFERED": "1",
            # Weights are looked up by timm's hub once for each trial: its progress bars are noise here.
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {**{name: value for name, value in os.environ.items() if name not in _LAUNCHER}, **own}


_LAUNCHER = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""Variables of a launcher around this process; they would tell the job that it is a part of something."""


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


def _reason(code: int, log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in deque(file, LOG_LINES) if line.strip()]
    killed = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit status {code}"
    # Accelerate's own traceback comes after the trainer's: the last line that names an error is said.
    wrappers = ("CalledProcessError", "ChildFailedError")
    errors = [line for line in lines if "Error" in line and not any(name in line for name in wrappers)]
    signals = [line for line in lines if "died with <Signals." in line or "Signal " in line]
    detail = (errors or signals or lines or ["it left no message"])[-1]
    return f"{killed}; {detail[:300]}"

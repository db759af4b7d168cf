"""Launching jobs: steps under `accelerate launch`, on the devices of one slot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
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

END_SECONDS = 10
"""So long a job may take to end by itself, when there is nothing more to do."""


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


class Worker:
    """Runs steps on a slot, one after another, in one job that stays up: it starts when first needed.

    Use it as a context manager; at the end its job ends.
    """

    def __init__(self, slot: Slot, runs: Runs, datasets: Path) -> None:
        self.slot, self.runs, self.datasets = slot, runs, datasets
        self.job: Job | None = None
        self.closed = False

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the job, for good; amid a step, whoever runs it is left to clear up."""
        self.closed = True
        if self.job is not None and self.job.busy:
            kill_children(self.job.process.pid)
            self.job.process.kill()
        else:
            self.close()

    def close(self) -> None:
        """End the job, if there is one; the next step starts another."""
        if self.job is not None:
            self.job.close()
            self.job = None

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> None:
        """Run steps until each has a result, failed ones included.

        What another sweep is working on comes last. When the job dies, the trial that it was at becomes
        `failed` with the reason, and the next one gets a new job; a job that cannot even start fails all.
        """
        waiting, deferred, broken = deque(steps), 0, ""
        while waiting:
            step = waiting.popleft()
            trial_id = step.trial.trial_id
            with self.runs.claim(trial_id, wait=deferred > len(waiting)) as claimed:
                if not claimed:
                    waiting.append(step)
                    deferred += 1
                    if deferred == len(waiting):
                        text = "another sweep is at it; waiting for its end"
                        on_event(Event(kind="message", trial_id=waiting[0].trial.trial_id, text=text))
                    continue
                deferred = 0
                if (result := self.runs.reached(step)) is not None:
                    ended = {"epoch": result["epochs"], "val_auroc": result["val_auroc"]}
                    on_event(Event(kind=result["status"], trial_id=trial_id, **ended))
                    continue
                reason, began = (broken, False) if broken else self._run(step, on_event)
                if reason is not None:
                    broken = "" if began else reason
                    self.runs.publish_failure(step.trial, reason)
                    on_event(Event(kind="failed", trial_id=trial_id, text=reason))

    def _run(self, step: Step, on_event: OnEvent) -> tuple[str | None, bool]:
        """Run one step; return why its job died (None if it did not), and whether the step had begun."""
        precision = step.trial.recipe.precision
        assert step.trial.processes == self.slot.processes, f"{step.trial.label} on slot {self.slot.name}"
        if self.job is not None and self.job.precision != precision:
            self.close()
        while True:
            self._check_stopped()
            fresh = self.job is None
            if self.job is None:
                self.job = Job(self.slot, precision, self.runs, self.datasets)
            job = self.job
            kind = job.run(step, on_event)
            if kind in ("completed", "stopped"):
                return None, True
            # What a failure has left of a device's state is not for the next trial.
            reason = job.close(keep_log=kind == "failed")
            self.job = None
            self._check_stopped()
            # It may have been killed between publishing a result and saying so.
            if kind == "failed" or self.runs.reached(step) is not None:
                return None, True
            # A job that died while it had nothing to do is no fault of this step's.
            if job.began or fresh:
                return reason or "the job ended before the trial did", job.began

    def _check_stopped(self) -> None:
        if STOPPING.is_set() or self.closed:
            raise TrialError("the sweep was stopped")


class Job:
    """One launch of Accelerate, which waits for steps and works them off.

    Each process of it has a named pipe, on which a line is a step; the pipes' end is the job's.
    """

    def __init__(self, slot: Slot, precision: str, runs: Runs, datasets: Path) -> None:
        self.slot, self.precision = slot, precision
        self.began = self.busy = False
        self.said = ""
        self.folder = runs.jobs() / uuid4().hex[:12]
        self.folder.mkdir()
        # A file system over a network may know no pipes.
        self.pipes_at = Path(tempfile.mkdtemp(prefix="ttl-job-"))
        self.pipes = []
        for rank in range(slot.processes):
            os.mkfifo(self.pipes_at / str(rank))
            # Opened for reading too, it waits for no reader.
            self.pipes.append((self.pipes_at / str(rank)).open("r+b", buffering=0))
        order = {
            "pipes": str(self.pipes_at),
            "runs": str(runs.root.resolve()),
            "datasets": str(datasets.resolve()),
            "precision": precision,
            "device": slot.device,
            "parent": os.getpid(),
        }
        (self.folder / "job.json").write_text(json.dumps(order), encoding="utf-8")
        # Everything is said here, so that a configuration in the user's home cannot change a result.
        config = self.folder / "accelerate.yaml"
        config.write_text(yaml.safe_dump(self._config()), encoding="utf-8")
        self.log = (self.folder / "log").open("w", encoding="utf-8")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += ["--num_cpu_threads_per_process", str(slot.threads)]
        command += ["-m", "ttl.training.job", str(self.folder / "job.json")]
        self.process = subprocess.Popen(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )

    def run(self, step: Step, on_event: OnEvent) -> str | None:
        """Have one step run; return the kind of event that it ended with, None if the job died."""
        self.said, self.began, self.busy = "", False, True
        for pipe in self.pipes:
            pipe.write(json.dumps(step.to_dict()).encode() + b"\n")
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = decode(line)
            if event is None or event.trial_id != step.trial.trial_id:
                # Something else's output, or an afterthought on the last step, which has its result.
                self.log.write(line)
                continue
            self.began = True
            if event.kind == "message":
                self.said = event.text
                continue
            on_event(event)
            if event.kind in ENDS:
                self.busy = False
                return event.kind
        self.busy = False
        return None

    def close(self, *, keep_log: bool = False) -> str | None:
        """End the job, amid a step if need be; return why it died, None if it had not.

        The files of one that died stay, for its log; `keep_log` keeps those of any other.
        """
        for pipe in self.pipes:
            pipe.close()
        code = 0
        if not self.busy:
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=END_SECONDS)
        kill_children(self.process.pid)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.pipes_at, ignore_errors=True)
        if code == 0:
            if not keep_log:
                shutil.rmtree(self.folder, ignore_errors=True)
            return None
        log = self.folder / "log"
        return self.said or f"the job died: {_reason(code, log)}; see {log}"

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
            "mixed_precision": self.precision,
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

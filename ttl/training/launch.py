"""A job: one `accelerate launch` on the devices of a slot, which works off steps as they are given."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from ttl.processes import kill_children
from ttl.training.devices import Slot
from ttl.training.events import ENDS, Event, decode
from ttl.training.runs import Runs
from ttl.training.trial import Step

OnEvent = Callable[[Event], None]

PROGRAM = "ttl.training.job"
"""What a job runs, in each of its processes."""

LOG_LINES = 40

END_SECONDS = 10
"""So long a job may take to end by itself, when there is nothing more to do."""


class Job:
    """One launch of Accelerate, which waits for steps and works them off.

    Each process of it has a named pipe, on which a line is a step; the pipes' end is the job's.
    """

    def __init__(
        self, slot: Slot, precision: str, runs: Runs, datasets: Path, lease: Sequence[int] = ()
    ) -> None:
        self.slot, self.precision = slot, precision
        self.began = self.busy = False
        self.folder = runs.jobs() / uuid4().hex[:12]
        self.folder.mkdir()
        # A file system over a network may know no pipes.
        self.pipes_at = Path(tempfile.mkdtemp(prefix="ttl-job-"))
        order = {
            "pipes": str(self.pipes_at),
            "runs": str(runs.root.resolve()),
            "datasets": str(datasets.resolve()),
            "precision": precision,
            "device": slot.device,
            "parent": os.getpid(),
        }
        # Everything is said here, so that a configuration in the user's home cannot change a result.
        config = self.folder / "accelerate.yaml"
        try:
            (self.folder / "job.json").write_text(json.dumps(order), encoding="utf-8")
            config.write_text(yaml.safe_dump(self._config()), encoding="utf-8")
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.pipes_at, ignore_errors=True)
            raise
        self.log = (self.folder / "log").open("w", encoding="utf-8")
        self.pipes = []
        for rank in range(slot.processes):
            os.mkfifo(self.pipes_at / str(rank))
            # Opened for reading too, it waits for no reader.
            self.pipes.append((self.pipes_at / str(rank)).open("r+b", buffering=0))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += ["--num_cpu_threads_per_process", str(slot.threads)]
        command += ["-m", PROGRAM, str(self.folder / "job.json")]
        self.process = subprocess.Popen(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
            # So the devices stay taken until this has ended too, whatever becomes of us.
            pass_fds=lease,
        )

    def run(self, step: Step, on_event: OnEvent) -> Event | None:
        """Have one step run; return the event that it ended with, None if the job died.

        A failure is not passed on: whoever asked for the step may have it tried again.
        """
        self.began, self.busy = False, True
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
            if event.kind == "failed":
                return event
            on_event(event)
            if event.kind in ENDS:
                self.busy = False
                return event
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
        # On a full disk there may be no room for its last lines.
        with suppress(OSError):
            self.log.close()
        shutil.rmtree(self.pipes_at, ignore_errors=True)
        if code == 0:
            if not keep_log:
                shutil.rmtree(self.folder, ignore_errors=True)
            return None
        log = self.folder / "log"
        return f"the job died: {_reason(code, log)}; see {log}"

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

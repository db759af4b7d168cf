"""Processes that outlive the command that started them, each known by a file with its id."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ttl.errors import ServiceError

STOP_SECONDS = 15
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Processes:
    """The long-running processes of a stack, whose records and logs lie in a folder."""

    folder: Path

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        user: str | None = None,
    ) -> None:
        """Start a process in a session of its own, unless it runs already."""
        if self.alive(name) is not None:
            return
        log = self.log(name)
        for path in (log, self._record(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        # The creation time tells it from another process that gets its id later.
        record = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        self._record(name).write_text(json.dumps(record), encoding="utf-8")

    def alive(self, name: str) -> psutil.Process | None:
        """Return the process of this name, None if it does not run."""
        try:
            record = json.loads(self._record(name).read_text(encoding="utf-8"))
            process = psutil.Process(record["pid"])
            runs = process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return process if runs else None

    def names(self) -> list[str]:
        """Return the names of all processes that were started and not stopped."""
        return sorted(path.stem for path in self.folder.glob("run/*.json"))

    def kill(self, name: str) -> None:
        """Kill a process, and what it has started, with SIGKILL: as a fault would."""
        if (process := self.alive(name)) is not None:
            family = [process, *process.children(recursive=True)]
            for one in family:
                _signal(one.kill)
            psutil.wait_procs(family, timeout=STOP_SECONDS)

    def stop(self, name: str) -> None:
        """End a process and what it has started, gently first."""
        if (process := self.alive(name)) is not None:
            family = [process, *process.children(recursive=True)]
            _signal(process.terminate)
            _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
            for one in left:
                _signal(one.kill)
            psutil.wait_procs(left, timeout=STOP_SECONDS)
        self._record(name).unlink(missing_ok=True)

    def wait(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until a process is ready. Raises `ServiceError` with its last words if it never is."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.alive(name) is None or time.monotonic() > deadline:
                words = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
                what = "has ended" if self.alive(name) is None else f"was not ready after {seconds:.0f} s"
                raise ServiceError(f"{name} {what}; the end of {self.log(name)}:\n" + "\n".join(words))
            time.sleep(LOOK_SECONDS)

    def log(self, name: str) -> Path:
        """Return the file of what a process prints."""
        return self.folder / "logs" / f"{name}.log"

    def _record(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.json"


def run(command: Sequence[str], *, environment: Mapping[str, str], cwd: Path, user: str | None = None) -> str:
    """Run a command to its end and return what it printed. Raises `ServiceError` with its last words."""
    done = subprocess.run(
        list(command),
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-8:]
        name = os.fspath(command[0]).rpartition("/")[2]
        raise ServiceError(f"{name} {command[1]} failed ({done.returncode}):\n" + "\n".join(words))
    return done.stdout


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return

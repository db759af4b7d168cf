"""Processes that outlive the command that started them, each known by a file with its id."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ttl.errors import ServiceError

STOP_SECONDS = 15
LOOK_SECONDS = 0.2
START_SECONDS = 90

MARK = "TTL_STACK_SERVICE"
"""The variable by which what a service has started is known once the service itself has gone."""


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
        # One whose record was removed by hand would hold the port. What outlives a process that was killed is
        # left: a worker's runs end by themselves, and say so.
        if not self._record(name).is_file():
            self.kill(name)
        log = self.log(name)
        for path in (log, self._record(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                env={**environment, MARK: self._mark(name)},
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
            runs = process.create_time() == record["created"] and _runs(process)
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return process if runs else None

    def names(self) -> list[str]:
        """Return the names of all processes that were started and not stopped."""
        return sorted(path.stem for path in self.folder.glob("run/*.json"))

    def kill(self, name: str) -> None:
        """Kill a process, and what it has started, with SIGKILL: as a fault would."""
        family = self.family(name)
        for one in family:
            _send(one, signal.SIGKILL)
        _wait(family)

    def stop(self, name: str, gently: signal.Signals = signal.SIGTERM) -> None:
        """End a process and what it has started, gently first.

        Raises `ServiceError` for what does not end.
        """
        process, family = self.alive(name), self.family(name)
        for one in [process] if process is not None else family:
            _send(one, gently)
        _wait(family)
        # What it started while it ended is there too.
        left = self.family(name)
        for one in left:
            _send(one, signal.SIGKILL)
        if left := _wait(left):
            raise ServiceError(f"{name}: processes {', '.join(str(one.pid) for one in left)} do not end")
        self._record(name).unlink(missing_ok=True)

    def family(self, name: str) -> list[psutil.Process]:
        """Return a service's process and all that it has started; also what has outlived it."""
        process = self.alive(name)
        family = [] if process is None else [process, *process.children(recursive=True)]
        mark = self._mark(name)
        return family + [one for one in psutil.process_iter() if one not in family and _marked(one, mark)]

    def wait(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until a process is ready. Raises `ServiceError` with its last words if it never is."""
        deadline = time.monotonic() + seconds
        # Another program that has its port may answer in its place.
        while self.alive(name) is None or not ready():
            if self.alive(name) is None or time.monotonic() > deadline:
                words = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
                what = "has ended" if self.alive(name) is None else f"was not ready after {seconds:.0f} s"
                raise ServiceError(f"{name} {what}; the end of {self.log(name)}:\n" + "\n".join(words))
            time.sleep(LOOK_SECONDS)

    def log(self, name: str) -> Path:
        """Return the file of what a process prints."""
        return self.folder / "logs" / f"{name}.log"

    def _mark(self, name: str) -> str:
        return f"{self.folder}:{name}"

    def _record(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.json"


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    user: str | None = None,
    text: str = "",
) -> str:
    """Run a command that reads `text` to its end, and return what it printed.

    Raises `ServiceError` with its last words if it fails.
    """
    done = subprocess.run(
        list(command),
        env=dict(environment),
        cwd=cwd,
        input=text,
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


def succeeds(command: Sequence[str]) -> bool:
    """Return whether a command succeeds; what it prints is of no interest."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _wait(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until processes have ended. Return those that have not."""
    deadline = time.monotonic() + STOP_SECONDS
    while (left := [one for one in processes if _runs(one)]) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS / 4)
    return left


def _runs(process: psutil.Process) -> bool:
    # A zombie has ended, though whoever adopted it may be slow to notice.
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and _runs(process)
    except (psutil.Error, OSError):
        return False

"""A Prefect server for one sweep: started when no other is named, and gone with the sweep, however it ends.

Prefect's own embedded server outlives a killed flow, picks its port by chance, and writes to the terminal.
"""

import argparse
import fcntl
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ttl.errors import ServiceError
from ttl.processes import die_with

API_URL = "PREFECT_API_URL"
START_SECONDS = 180
LOGGING = Path(__file__).with_name("logging.yml")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_SETTINGS_PATH": str(LOGGING),
}
"""Nothing is sent to anybody, and nothing is written to the terminal."""

PATIENT = {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}
"""A server whose database is away answers so; it is asked again, as one that does not answer is."""

SERVER = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


@contextmanager
def prefect_api(home: Path, log: Path) -> Iterator[None]:
    """Provide a Prefect API to the flows of this process.

    The server that PREFECT_API_URL names is used. Without one, a local server is started whose history lies
    in `home`; it ends with the block, or with this process. Prefect's messages go to the file `log`.

    Raises ServiceError if the local server does not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(QUIET | PATIENT, PREFECT_LOGGING_HANDLERS_FILE_FILENAME=str(log.resolve()))
    if os.environ.get(API_URL):
        yield
        return
    with log.open("a", encoding="utf-8") as file:
        server = _start(home, file)
    try:
        os.environ[API_URL] = f"http://127.0.0.1:{_port(server, log)}/api"
        os.environ["PREFECT_HOME"] = str(home.resolve())
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = _without_proxy(os.environ)
        with _settings():
            yield
    finally:
        _send_what_waits()
        os.environ.pop(API_URL, None)
        server.terminate()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _start(home: Path, log: IO[str]) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "flows.server",
        "--home",
        str(home.resolve()),
        "--parent",
        str(os.getpid()),
    ]
    # A session of its own: an interrupt from the keyboard is for the sweep, which ends the server last.
    return subprocess.Popen(
        command,
        env={**os.environ, **SERVER},
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )


def _port(server: subprocess.Popen[str], log: Path) -> int:
    """Wait until the server answers, and return its port."""
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], START_SECONDS)
    line = server.stdout.readline() if ready else ""
    if not line:
        raise ServiceError(
            f"the local Prefect server did not start; the reason is at the end of {log}. "
            f"Set {API_URL} to use another server"
        )
    return int(line)


def _without_proxy(environment: os._Environ[str]) -> str:
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return known if "127.0.0.1" in known else ",".join(filter(None, [known, "127.0.0.1"]))


@contextmanager
def _settings() -> Iterator[None]:
    """Prefect reads the environment when it is first imported: tell it where that was long ago."""
    if "prefect" not in sys.modules:
        yield
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415

    with temporary_settings(updates={PREFECT_API_URL: os.environ[API_URL]}):
        yield


def _send_what_waits() -> None:
    """Let Prefect's background threads finish: without their server they would complain at exit."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker  # noqa: PLC0415
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=5, at_exit=False)


def _own_folder(home: Path) -> tuple[Path, IO[str]]:
    """Return a folder under `home` that no other server uses, and the open file that keeps it so."""
    number = 0
    while True:
        folder = home / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            number += 1
        else:
            (home / ".gitignore").write_text("*\n")
            return folder, file


def _serve(home: Path) -> None:
    # What anything prints goes to the log; the real standard output is for the port alone.
    announce = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    folder, lock = _own_folder(home)
    os.environ["PREFECT_HOME"] = str(folder)
    with lock, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        # Both take seconds to import, and only this process needs them.
        import uvicorn  # noqa: PLC0415
        from prefect.server.api.server import create_app  # noqa: PLC0415

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    with announce:
                        announce.write(f"{listener.getsockname()[1]}\n")

        config = uvicorn.Config(create_app(), log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        Server(config).run(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    _serve(arguments.home)

"""What a stack is made of: its folder, ports and secrets, and the environment of those who use it."""

import hashlib
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ttl.errors import ServiceError

PORTS = {
    "postgres": 54329,
    "prefect": 4200,
    "s3": 8000,
    "ceph": 6789,
    "ceph2": 6790,
    "ray": 6379,
    "ray_client": 10001,
}

SECRETS = ("postgres", "prefect", "s3_access", "s3_secret", "ray", "intake")
BYTES = {"intake": 32}
"""Those of a secret, where they are not 16."""

PROJECT = Path(__file__).parents[2]

FOREIGN = ("AWS_", "PREFECT_", "RAY_")
"""A person's own settings of these services are not the stack's: a session token would spoil its keys."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A stack's folder, and its ports and secrets, made once and kept there."""

    folder: Path
    ports: dict[str, int]
    secrets: dict[str, str]

    @classmethod
    def of(cls, folder: Path, *, free_ports: bool = False) -> "Settings":
        """Return the settings of the stack in a folder; if it has none, new ones, on usual or free ports.

        Raises `ServiceError` for a folder that has something else in it.
        """
        folder = folder.resolve()
        path = folder / "settings.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not {"ports", "secrets"} <= kept.keys():
            if folder.is_dir() and any(folder.iterdir()):
                raise ServiceError(f"{folder} has files of something else; name an empty folder in TTL_STACK")
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        made = {
            "ports": {**(_free_ports() if free_ports and not kept else PORTS), **kept.get("ports", {})},
            "secrets": {
                **{name: secrets.token_hex(BYTES.get(name, 16)) for name in SECRETS},
                **kept.get("secrets", {}),
            },
        }
        settings = cls(folder, **made)
        if not kept:
            # Of a stack that lay at this path and was removed by hand: its secrets went with it.
            settings.purge(keep=folder)
        if made != kept:
            _write_secret(path, json.dumps(made, indent=2))
        return settings

    @property
    def outside(self) -> Path:
        """A folder for services that run as another user, who may not enter ours."""
        return Path("/var/lib/ttl-stack") / self._short if os.getuid() == 0 else self.folder

    @property
    def temporary(self) -> Path:
        """A folder for temporary files, whose name is short enough for Ray's sockets."""
        return Path(tempfile.gettempdir()) / f"ttl-stack-{self._short}"

    @property
    def repository(self) -> Path:
        """The git repository that workers clone."""
        return self.folder / "repository.git"

    def client(self) -> dict[str, str]:
        """Return the variables that a person, a worker or a flow needs."""
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ports['prefect']}/api",
            "PREFECT_API_AUTH_STRING": f"ttl:{self.secrets['prefect']}",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "AWS_ACCESS_KEY_ID": self.secrets["s3_access"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["s3_secret"],
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.ports['s3']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "TTL_STORE": "s3://ttl/runs",
            "TTL_REPOSITORY": f"file://{self.repository}",
            "TTL_INTAKE_KEY": self.secrets["intake"],
            "RAY_ADDRESS": f"127.0.0.1:{self.ports['ray']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.secrets["ray"],
            # What keeps Ray to 127.0.0.1, whatever the system.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }

    def environment(self) -> dict[str, str]:
        """Return the environment of the stack's own processes."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        local = ",".join(filter(None, [own.get("no_proxy", ""), "127.0.0.1"]))
        path = f"{Path(sys.executable).parent}:{own.get('PATH', '')}"
        quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DVC_NO_ANALYTICS": "1"}
        return {**own, **quiet, "PATH": path, "no_proxy": local, "NO_PROXY": local, **self.client()}

    def write_environment(self) -> Path:
        """Write `env`, for a person's shell; nobody else can read it."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.client().items()]
        path = self.folder / "env"
        _write_secret(path, "\n".join([*lines, 'export no_proxy="${no_proxy:+$no_proxy,}127.0.0.1"', ""]))
        return path

    def purge(self, *, keep: Path | None = None) -> None:
        """Remove all that the stack has written, but `keep`: its folder was empty when it was taken."""
        for folder in {self.outside, self.temporary, self.folder} - {keep}:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _short(self) -> str:
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _free_ports() -> dict[str, int]:
    # Held until the last is chosen, so that no two are the same.
    with ExitStack() as held:
        sockets = {name: held.enter_context(socket.create_server(("127.0.0.1", 0))) for name in PORTS}
        return {name: int(one.getsockname()[1]) for name, one in sockets.items()}

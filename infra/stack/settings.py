"""What a stack is made of: its folder, ports and secrets, and the environment of those who use it."""

import hashlib
import json
import os
import secrets
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

PORTS = {
    "postgres": 54329,
    "prefect": 4200,
    "s3": 8000,
    "ceph": 6789,
    "ray": 6379,
}

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Settings:
    """A stack's folder, and its ports and secrets, made once and kept there."""

    folder: Path
    ports: dict[str, int]
    secrets: dict[str, str]

    @classmethod
    def of(cls, folder: Path, *, free_ports: bool = False) -> "Settings":
        """Return the settings of the stack in a folder; if it has none, new ones, on usual or free ports."""
        folder = folder.resolve()
        path = folder / "settings.json"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700 if os.getuid() else 0o755)
            names = ("postgres", "prefect", "s3_access", "s3_secret")
            made = {
                "ports": {name: _free_port() for name in PORTS} if free_ports else PORTS,
                "secrets": {name: secrets.token_hex(12) for name in names},
            }
            _write_secret(path, json.dumps(made, indent=2))
        return cls(folder, **json.loads(path.read_text(encoding="utf-8")))

    @property
    def outside(self) -> Path:
        """A folder for services that run as another user, who may not enter ours."""
        if os.getuid():
            return self.folder
        return Path("/var/lib/ttl-stack") / hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]

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
            "RAY_ADDRESS": f"127.0.0.1:{self.ports['ray']}",
            # What keeps Ray to 127.0.0.1, whatever the system.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }

    def environment(self) -> dict[str, str]:
        """Return the environment of the stack's own processes."""
        local = ",".join(filter(None, [os.environ.get("no_proxy", ""), "127.0.0.1"]))
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DVC_NO_ANALYTICS": "1"}
        return {**os.environ, **quiet, "PATH": path, "no_proxy": local, "NO_PROXY": local, **self.client()}

    def write_environment(self) -> Path:
        """Write `env`, for a person's shell; nobody else can read it."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.client().items()]
        path = self.folder / "env"
        _write_secret(path, "\n".join([*lines, 'export no_proxy="${no_proxy:+$no_proxy,}127.0.0.1"', ""]))
        return path


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])

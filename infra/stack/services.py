"""How each service of the stack but S3 is started, and how it says that it is ready."""

import base64
import glob
import os
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from infra.stack.ceph import CEPH, Ceph
from infra.stack.processes import START_SECONDS, Processes, run, succeeds
from infra.stack.settings import PROJECT, Settings
from ttl.errors import ServiceError

PACKAGES = {
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "radosgw": "/usr/bin/radosgw",
    "ceph-mon": "/usr/bin/ceph-mon",
    "ceph-osd": "/usr/bin/ceph-osd",
    "ceph-mgr": "/usr/bin/ceph-mgr",
}

RAY = ("ray-head", "ray-node")

NAMES = ("worker", *reversed(RAY), "prefect", "postgres", *reversed(CEPH))
"""All services, each before what it stands on."""

_RAY_ON_LOOPBACK = """
import ray._private.services as services
services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
main()
"""
"""Ray looks for an address that other hosts can reach, also when told to use 127.0.0.1."""


def install_packages() -> None:
    """Install what is missing from Debian's packages. Raises `ServiceError` where only root could."""
    missing = [name for name, path in PACKAGES.items() if not glob.glob(path)]  # noqa: PTH207 - absolute
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.getuid() or shutil.which("apt-get") is None:
        raise ServiceError(
            f"the stack needs these packages of Debian: {' '.join(missing)}; as root: {' '.join(install)}"
        )
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environment=quiet, cwd=Path("/"))
    run(
        [*install[:2], "-qq", "-o", "DPkg::Lock::Timeout=300", *install[2:]], environment=quiet, cwd=Path("/")
    )


class Services:
    """Starts the services of a stack, each where it does not run already."""

    def __init__(self, settings: Settings, project: Path = PROJECT) -> None:
        self.settings, self.ports, self.project = settings, settings.ports, project
        self.processes = Processes(settings.folder)
        self.environment = settings.environment()
        self.ceph = Ceph(settings, self.processes)

    def postgres(self) -> None:
        """Start PostgreSQL, on a cluster of our own: Debian's is neither used nor disturbed."""
        user = None if os.getuid() else "postgres"
        home, folder = self.settings.outside, self.settings.outside / "postgres"
        programs = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])  # noqa: PTH207 - absolute
        if not (folder / "PG_VERSION").is_file():
            home.mkdir(parents=True, exist_ok=True)
            if user:
                shutil.chown(home, user, user)
            password = home / "password"
            password.write_text(self.settings.secrets["postgres"], encoding="utf-8")
            password.chmod(0o600)
            if user:
                shutil.chown(password, user, user)
            initdb = [str(programs / "initdb"), "--pgdata", str(folder), "--username", "ttl", "--no-sync"]
            initdb += [
                "--auth",
                "scram-sha-256",
                "--pwfile",
                str(password),
                "--encoding",
                "UTF8",
                "--locale",
                "C",
            ]
            run(initdb, environment=self.environment, cwd=home, user=user)
            password.unlink()
        port = str(self.ports["postgres"])
        command = [
            str(programs / "postgres"),
            "-D",
            str(folder),
            "-h",
            "127.0.0.1",
            "-p",
            port,
            "-k",
            str(home),
        ]
        self.processes.start("postgres", command, environment=self.environment, cwd=home, user=user)
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]
        self.processes.wait("postgres", lambda: succeeds(ready), START_SECONDS)

    def prefect(self) -> None:
        """Start the Prefect server, on PostgreSQL; it answers nobody without the password."""
        secret = self.settings.secrets
        database = (
            f"postgresql+asyncpg://ttl:{secret['postgres']}@127.0.0.1:{self.ports['postgres']}/postgres"
        )
        own = {
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_API_AUTH_STRING": f"ttl:{secret['prefect']}",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        command += ["--port", str(self.ports["prefect"])]
        # A server is its own, whatever server its environment names for clients.
        environment = {name: value for name, value in self.environment.items() if name != "PREFECT_API_URL"}
        self.processes.start("prefect", command, environment={**environment, **own}, cwd=self.settings.folder)
        self.processes.wait("prefect", self._prefect_answers, START_SECONDS)

    def s3(self) -> bool:
        """Start S3. Return whether it is new: then it has no objects yet."""
        return self.ceph.start()

    def ray(self) -> None:
        """Start two Ray nodes on this host, each with a core and a `ttl_slot` that stands for a device."""
        # Not the environment's own address: a head is its own. Its password is the same.
        environment = {
            name: value
            for name, value in self._trainers().items()
            if not name.startswith("RAY_") or name.startswith("RAY_AUTH_")
        }
        environment["PYTHONPATH"] = str(self.project)
        ray = [sys.executable, "-c", _RAY_ON_LOOPBACK, "start", "--block", "--disable-usage-stats"]
        each = ["--num-cpus=1", '--resources={"ttl_slot": 1}', "--object-store-memory=100000000"]
        each += ["--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]
        head = [*ray, "--head", f"--port={self.ports['ray']}", "--include-dashboard=false", *each]
        head += [f"--ray-client-server-port={self.ports['ray_client']}"]
        head += [f"--temp-dir={self.settings.temporary / 'ray'}"]
        node = [*ray, f"--address=127.0.0.1:{self.ports['ray']}", *each]
        for name, command in zip(RAY, (head, node), strict=True):
            self._fresh_log(name)
            self.processes.start(name, command, environment=environment, cwd=self.project)
            self.processes.wait(name, partial(self._said, name, "Ray runtime started"), START_SECONDS)

    def worker(self) -> None:
        """Start a worker of Prefect's, which has nothing but the repository's address, S3 and the API."""
        folder = self.settings.folder / "worker"
        folder.mkdir(exist_ok=True)
        # A sweep whose machine is gone is noticed in minutes.
        own = {"TTL_CACHE": str(folder / "cache"), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
        # Whoever tries the stack out need not wait for its worker to look.
        own["PREFECT_WORKER_QUERY_SECONDS"] = "2"
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ttl", "--name", "stack"]
        command += ["--type", "process"]
        self._fresh_log("worker")
        self.processes.start("worker", command, environment={**self._trainers(), **own}, cwd=folder)
        self.processes.wait("worker", lambda: self._said("worker", "started!"), START_SECONDS)

    def stop(self, name: str) -> None:
        """End a service and what it has started."""
        # To PostgreSQL the usual signal says to wait until its last client has gone.
        self.processes.stop(name, signal.SIGINT if name == "postgres" else signal.SIGTERM)

    def _trainers(self) -> dict[str, str]:
        """Return the environment of what trains; its temporary files go with the stack, leases do not."""
        folder = self.settings.temporary
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise ServiceError(f"{folder} belongs to another user; remove it, or name another TMPDIR")
        leases = os.environ.get("TTL_DEVICES") or f"{tempfile.gettempdir()}/ttl-devices"
        return {**self.environment, "TMPDIR": str(folder), "TTL_DEVICES": leases}

    def _prefect_answers(self) -> bool:
        login = base64.b64encode(self.settings.client()["PREFECT_API_AUTH_STRING"].encode()).decode()
        address = f"http://127.0.0.1:{self.ports['prefect']}/api/admin/version"
        request = urllib.request.Request(address, headers={"Authorization": f"Basic {login}"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=2
            ) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _fresh_log(self, name: str) -> None:
        """Start a log anew, of a service that says in it that it is ready."""
        if self.processes.alive(name) is None:
            self.processes.log(name).unlink(missing_ok=True)

    def _said(self, name: str, words: str) -> bool:
        log = self.processes.log(name)
        return log.is_file() and words in log.read_text(encoding="utf-8", errors="replace")

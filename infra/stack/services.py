"""How each service of the stack is started, and how it says that it is ready."""

import base64
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from uuid import uuid4

from infra.stack.processes import Processes, run
from infra.stack.settings import PROJECT, Settings
from ttl.errors import ServiceError

PACKAGES = {
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "radosgw": "/usr/bin/radosgw",
    "ceph-mon": "/usr/bin/ceph-mon",
    "ceph-osd": "/usr/bin/ceph-osd",
    "ceph-mgr": "/usr/bin/ceph-mgr",
}

CEPH = ("ceph-mon", "ceph-mgr", "ceph-osd", "s3")
RAY = ("ray-head", "ray-node")

START_SECONDS = 90

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

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ports = settings, settings.ports
        self.processes = Processes(settings.folder)
        self.environment = settings.environment()

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
        self.processes.wait("postgres", lambda: _succeeds(ready), START_SECONDS)

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

    def s3(self) -> None:
        """Start Ceph's RADOS gateway, over a cluster of one node whose objects are in memory."""
        folder, config = self.settings.folder / "ceph", self.settings.folder / "ceph" / "ceph.conf"
        # What was in memory is gone, and no part of the cluster can go on without the others.
        if any(self.processes.alive(name) is None for name in CEPH):
            for name in reversed(CEPH):
                self.processes.stop(name)
            shutil.rmtree(folder, ignore_errors=True)
            self._make_ceph(folder, config)
        key = self.settings.secrets
        user = ["radosgw-admin", "-c", str(config), "user", "create", "--uid", "ttl", "--display-name", "ttl"]
        user += ["--access-key", key["s3_access"], "--secret", key["s3_secret"]]
        if not _succeeds(["radosgw-admin", "-c", str(config), "user", "info", "--uid", "ttl"]):
            run(user, environment=self.environment, cwd=folder)
        command = ["radosgw", "-c", str(config), "-f", "-n", "client.rgw"]
        self.processes.start("s3", command, environment=self.environment, cwd=folder)
        self.processes.wait("s3", lambda: _listens(self.ports["s3"]), START_SECONDS)
        make = "import os, s3fs; s3fs.S3FileSystem().makedirs('ttl', exist_ok=True)"
        run([sys.executable, "-c", make], environment=self.environment, cwd=folder)

    def ray(self) -> None:
        """Start two Ray nodes on this host, each with a core and a `ttl_slot` that stands for a device."""
        # Not the environment's own address: a head is its own.
        environment = {name: value for name, value in self.environment.items() if not name.startswith("RAY_")}
        environment["PYTHONPATH"] = str(PROJECT)
        ray = [sys.executable, "-c", _RAY_ON_LOOPBACK, "start", "--block", "--disable-usage-stats"]
        each = ["--num-cpus=1", '--resources={"ttl_slot": 1}', "--object-store-memory=100000000"]
        each += ["--node-ip-address=127.0.0.1"]
        head = [*ray, "--head", f"--port={self.ports['ray']}", "--include-dashboard=false", *each]
        # Sockets have short names alone.
        head += [f"--temp-dir={tempfile.gettempdir()}/ttl-ray-{self.ports['ray']}"]
        node = [*ray, f"--address=127.0.0.1:{self.ports['ray']}", *each]
        for name, command in zip(RAY, (head, node), strict=True):
            self._fresh_log(name)
            self.processes.start(name, command, environment=environment, cwd=PROJECT)
            self.processes.wait(name, partial(self._said, name, "Ray runtime started"), START_SECONDS)

    def worker(self) -> None:
        """Start a worker of Prefect's, which has nothing but the repository's address, S3 and the API."""
        folder = self.settings.folder / "worker"
        folder.mkdir(exist_ok=True)
        # A sweep whose machine is gone is noticed in minutes.
        own = {"TTL_CACHE": str(folder / "cache"), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ttl", "--name", "stack"]
        command += ["--type", "process"]
        self._fresh_log("worker")
        self.processes.start("worker", command, environment={**self.environment, **own}, cwd=folder)
        self.processes.wait("worker", lambda: self._said("worker", "started!"), START_SECONDS)

    def _make_ceph(self, folder: Path, config: Path) -> None:
        folder.mkdir(parents=True)
        keyring, monmap, identity = folder / "keyring", folder / "monmap", str(uuid4())
        ports = {"s3": self.ports["s3"], "mon": self.ports["ceph"], "mon2": self.ports["ceph"] + 1}
        config.write_text(_CEPH.format(folder=folder, fsid=identity, bytes=_BYTES, **ports), encoding="utf-8")
        users = {
            "mon.": ["mon", "allow *"],
            "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
            "mgr.x": ["mon", "allow profile mgr", "osd", "allow *"],
            "osd.0": ["mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"],
            "client.rgw": ["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"],
        }
        for name, rights in users.items():
            pairs = [one for i in range(0, len(rights), 2) for one in ("--cap", rights[i], rights[i + 1])]
            create = [] if keyring.is_file() else ["--create-keyring"]
            self._ceph("ceph-authtool", str(keyring), *create, "--gen-key", "-n", name, *pairs)
        address = f"[v2:127.0.0.1:{self.ports['ceph'] + 1},v1:127.0.0.1:{self.ports['ceph']}]"
        self._ceph("monmaptool", "--create", "--fsid", identity, "--addv", "a", address, str(monmap))
        self._ceph(
            "ceph-mon",
            "-c",
            str(config),
            "--mkfs",
            "-i",
            "a",
            "--monmap",
            str(monmap),
            "--keyring",
            str(keyring),
        )
        self._start_ceph("ceph-mon", config, "a")
        self._start_ceph("ceph-mgr", config, "x")
        ceph = ["ceph", "-c", str(config)]
        self.processes.wait(
            "ceph-mon", lambda: _succeeds([*ceph, "--connect-timeout", "3", "mon", "stat"]), START_SECONDS
        )
        # The same identity, or the object store never joins.
        store = str(uuid4())
        self._ceph(*ceph, "osd", "new", store)
        (folder / "osd").mkdir()
        self._ceph("ceph-osd", "-c", str(config), "-i", "0", "--mkfs", "--osd-uuid", store)
        self._start_ceph("ceph-osd", config, "0")
        up = [*ceph, "osd", "stat"]
        self.processes.wait("ceph-osd", lambda: "1 up" in _output(up), START_SECONDS)

    def _start_ceph(self, name: str, config: Path, identity: str) -> None:
        command = [name, "-c", str(config), "-f", "-i", identity]
        self.processes.start(name, command, environment=self.environment, cwd=config.parent)

    def _ceph(self, *command: str) -> str:
        return run(command, environment=self.environment, cwd=self.settings.folder)

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


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
    ).stdout


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


_CEPH = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 1
osd objectstore = memstore
memstore device bytes = {bytes}
keyring = {folder}/keyring
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
rgw data = {folder}/rgw
run dir = {folder}
admin socket = {folder}/$name.asok
pid file =
log file = {folder}/$name.log
crash dir = {folder}/crash
mgr initial modules =
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{s3}
rgw enable usage log = false
# What is removed goes at once: memory is short.
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
"""

_BYTES = 4 << 30
"""What the object store holds at most, in memory."""

"""A real S3 server: Ceph's RADOS gateway, over a cluster of one node whose objects are in memory."""

import json
import shutil
import socket
import subprocess
import sys
from uuid import uuid4

from infra.stack.processes import START_SECONDS, Processes, run
from infra.stack.settings import FOREIGN, Settings

CEPH = ("ceph-mon", "ceph-mgr", "ceph-osd", "s3")

GIBIBYTES = 4
"""What the object store holds at most, in memory."""

_USERS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}


class Ceph:
    """Ceph's four services in a stack: monitor, manager, object store and gateway."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self.settings, self.processes = settings, processes
        self.folder = settings.folder / "ceph"
        self.config = self.folder / "ceph.conf"
        self.environment = settings.environment()
        # Ceph brings the system's Python along; what is set for another one would end it.
        self.own = {
            name: value
            for name, value in self.environment.items()
            if not name.startswith(("PYTHON", "LD_", *FOREIGN))
        }

    def start(self) -> bool:
        """Start what does not run. Return whether it is new: with the store of objects, all of them went."""
        made = self.folder / "made"
        new = self.processes.alive("ceph-osd") is None or not made.is_file()
        if new:
            for name in reversed(CEPH):
                self.processes.stop(name)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._prepare()
        self._start("ceph-mon", "a")
        self._start("ceph-mgr", "x")
        self.processes.wait("ceph-mon", lambda: bool(self._ask("mon", "stat")), START_SECONDS)
        self.processes.wait("ceph-mgr", lambda: "true" in self._ask("mgr", "stat"), START_SECONDS)
        if new:
            self._make_store()
            self._start("ceph-osd", "0")
        self.processes.wait("ceph-osd", lambda: "1 up" in self._ask("osd", "stat"), START_SECONDS)
        if new:
            self._make_user()
        gateway = ["radosgw", "-c", str(self.config), "-f", "-n", "client.rgw"]
        self.processes.start("s3", gateway, environment=self.own, cwd=self.folder)
        self.processes.wait("s3", self._listens, START_SECONDS)
        make = "import s3fs; s3fs.S3FileSystem().makedirs('ttl', exist_ok=True)"
        run([sys.executable, "-c", make], environment=self.environment, cwd=self.folder)
        made.touch()
        return new

    def _prepare(self) -> None:
        """Write the configuration and the keys, and make the monitor's database."""
        self.folder.mkdir(parents=True)
        keyring, monmap, identity = self.folder / "keyring", self.folder / "monmap", str(uuid4())
        ports = self.settings.ports
        mon, mon2 = ports["ceph"], ports["ceph2"]
        values = {"fsid": identity, "mon": mon, "mon2": mon2, "s3": ports["s3"], "bytes": GIBIBYTES << 30}
        self.config.write_text(_CONFIG.format(folder=self.folder, **values), encoding="utf-8")
        for name, rights in _USERS.items():
            pairs = [word for right in rights.items() for word in ("--cap", *right)]
            create = [] if keyring.is_file() else ["--create-keyring"]
            self._run("ceph-authtool", str(keyring), *create, "--gen-key", "-n", name, *pairs)
        address = f"[v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon}]"
        self._run("monmaptool", "--create", "--fsid", identity, "--addv", "a", address, str(monmap))
        where = ["--monmap", str(monmap), "--keyring", str(keyring)]
        self._run("ceph-mon", "-c", str(self.config), "--mkfs", "-i", "a", *where)

    def _make_store(self) -> None:
        """Make the object store."""
        # The same identity, or it never joins.
        identity = str(uuid4())
        self._run(*self._to("osd", "new", identity))
        (self.folder / "osd").mkdir()
        self._run("ceph-osd", "-c", str(self.config), "-i", "0", "--mkfs", "--osd-uuid", identity)

    def _make_user(self) -> None:
        """Make the user whose keys are in the settings, given where no list of processes shows them."""
        admin = ["radosgw-admin", "-c", str(self.config)]
        self._run(*admin, "user", "create", "--uid", "ttl", "--display-name", "ttl")
        user = json.loads(self._run(*admin, "metadata", "get", "user:ttl"))
        kept = self.settings.secrets
        keys = {"user": "ttl", "access_key": kept["s3_access"], "secret_key": kept["s3_secret"]}
        user["data"]["keys"] = [keys]
        self._run(*admin, "metadata", "put", "user:ttl", text=json.dumps(user))

    def _start(self, name: str, identity: str) -> None:
        command = [name, "-c", str(self.config), "-f", "-i", identity]
        self.processes.start(name, command, environment=self.own, cwd=self.folder)

    def _to(self, *words: str) -> list[str]:
        return ["ceph", "-c", str(self.config), "--connect-timeout", "3", *words]

    def _ask(self, *words: str) -> str:
        """Return what the cluster answers, nothing if it does not."""
        command = self._to(*words)
        asked = subprocess.run(command, env=self.own, capture_output=True, check=False, text=True)
        return asked.stdout if asked.returncode == 0 else ""

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.settings.ports["s3"]), timeout=1).close()
        except OSError:
            return False
        return True

    def _run(self, *command: str, text: str = "") -> str:
        return run(command, environment=self.own, cwd=self.folder, text=text)


_CONFIG = """[global]
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

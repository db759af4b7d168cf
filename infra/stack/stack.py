"""The stack as a whole: what is started after what, and the repository and deployment that go with it."""

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import yaml

from infra.stack.ceph import CEPH
from infra.stack.processes import run
from infra.stack.services import NAMES, RAY, Services, install_packages
from infra.stack.settings import PROJECT, Settings
from ttl.errors import ServiceError

ORDER = NAMES
"""What is ended, in this order."""


class Stack:
    """PostgreSQL, a Prefect server, a real S3 server, two Ray nodes, a worker, and a repository for it."""

    def __init__(self, folder: Path, project: Path = PROJECT, *, free_ports: bool = False) -> None:
        self.settings, self.project = Settings.of(folder, free_ports=free_ports), project
        self.services = Services(self.settings, project)
        self.processes = self.services.processes

    def up(self, services: Iterable[str] | None = None) -> None:
        """Start whatever does not run, wait until it answers, and make what goes with it.

        `services` are some of `ORDER`; what they stand on is started too. Raises `ServiceError` for a service
        that does not come up, with its last words.
        """
        wanted = set(ORDER if services is None else map(self._known, services))
        worker = "worker" in wanted
        install_packages()
        self.settings.write_environment()
        parts: list[Callable[[], None]] = []
        if worker or wanted & {"postgres", "prefect"}:
            parts.append(self._api if worker or "prefect" in wanted else self.services.postgres)
        if worker or wanted & set(CEPH):
            parts.append(self._storage)
        if wanted & set(RAY):
            parts.append(self.services.ray)
        with ThreadPoolExecutor(3) as several:
            started = [several.submit(part) for part in parts]
        for one in started:
            one.result()
        if worker:
            self._deploy()
            self.services.worker()

    def down(self, *, purge: bool = False) -> None:
        """End all of it. The objects on S3 go with it: they are in memory; `purge` removes the rest too."""
        self.services.stop("worker")
        parts = (RAY[::-1], ("prefect", "postgres"), CEPH[::-1])
        with ThreadPoolExecutor(len(parts)) as several:
            ended = [several.submit(self._end, part) for part in parts]
        for one in ended:
            one.result()
        for folder in (self.settings.folder / "ceph", self.settings.temporary):
            shutil.rmtree(folder, ignore_errors=True)
        if purge:
            self.settings.purge()

    def kill(self, name: str) -> None:
        """Kill a service as a fault would: at once, and what it has started with it."""
        self.processes.kill(self._known(name))

    def restart(self, name: str) -> None:
        """End a service if it runs, and start it again. With `ceph-osd` the objects go."""
        self.services.stop(self._known(name))
        {
            "postgres": self.services.postgres,
            "prefect": self.services.prefect,
            "worker": self.services.worker,
            **dict.fromkeys(CEPH, self._storage),
            **dict.fromkeys(RAY, self.services.ray),
        }[name]()

    def pid(self, name: str) -> int | None:
        """Return the id of a service's process, None if it does not run."""
        process = self.processes.alive(self._known(name))
        return None if process is None else process.pid

    def environment(self) -> dict[str, str]:
        """Return the variables that a person, a worker or a flow needs."""
        return self.settings.client()

    def _known(self, name: str) -> str:
        if name not in ORDER:
            raise ServiceError(f"the stack has no service {name!r}; it has {', '.join(sorted(ORDER))}")
        return name

    def _end(self, names: Iterable[str]) -> None:
        for name in names:
            self.services.stop(name)

    def _api(self) -> None:
        self.services.postgres()
        self.services.prefect()

    def _storage(self) -> None:
        new, seeded = self.services.s3(), self.settings.folder / "seeded"
        head = self._git("rev-parse", "HEAD", cwd=self.project)
        if new or not seeded.is_file() or seeded.read_text(encoding="utf-8") != head:
            seeded.unlink(missing_ok=True)
            self._seed()
            seeded.write_text(head, encoding="utf-8")

    def _seed(self) -> None:
        """Make the repository that workers clone: this checkout's commit, and one with the demo's data."""
        bare, clone = self.settings.repository, self.settings.folder / "clone"
        for old in (bare, clone):
            shutil.rmtree(old, ignore_errors=True)
        self._git("init", "--quiet", "--bare", "--initial-branch", "main", str(bare), cwd=self.project)
        # By a commit of its own, from the tree as it is committed: the checkout is not touched.
        self._git("clone", "--quiet", "--no-local", str(self.project), str(clone), cwd=self.project)
        environment = {**self.services.environment, "PYTHONPATH": str(clone)}
        for arguments in (
            ("remote", "add", "--default", "storage", "s3://ttl/dvc"),
            ("remote", "modify", "storage", "endpointurl", self.settings.client()["AWS_ENDPOINT_URL_S3"]),
            ("repro", "--quiet", "prepare"),
            ("push", "--quiet"),
        ):
            run(["dvc", *arguments], environment=environment, cwd=clone)
        self._git("add", "--force", ".dvc/config", "dvc.lock", cwd=clone)
        author = ["-c", "user.name=stack", "-c", "user.email=stack@localhost"]
        self._git(
            *author, "commit", "--quiet", "--message", "The demo's data, on the stack's storage", cwd=clone
        )
        self._git("push", "--quiet", str(bare), "HEAD:main", cwd=clone)

    def _deploy(self) -> None:
        """Register the work pool, the deployments and the automations, as an administrator would once."""
        clone, deployed = self.settings.folder / "clone", self.settings.outside / "deployed"
        seed = (self.settings.folder / "seeded").read_text(encoding="utf-8")
        # Beside the database, whose content it is about.
        if deployed.is_file() and deployed.read_text(encoding="utf-8") == seed:
            return
        self._prefect("work-pool", "create", "ttl", "--type", "process", "--overwrite")
        self._prefect("--no-prompt", "deploy", "--all")
        automations = clone / "infra" / "automations.yaml"
        # Anew, since they may have changed; the first time there are none.
        for one in yaml.safe_load(automations.read_text(encoding="utf-8"))["automations"]:
            with suppress(ServiceError):
                self._prefect("automation", "delete", one["name"])
        self._prefect("automation", "create", "--from-file", str(automations))
        deployed.write_text(seed, encoding="utf-8")

    def _prefect(self, *arguments: str) -> str:
        folder = self.settings.folder / "clone"
        return run(["prefect", *arguments], environment=self.services.environment, cwd=folder)

    def _git(self, *arguments: str, cwd: Path) -> str:
        # The settings of a person's git, such as signing, are not for the stack.
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        environment = {**self.services.environment, **alone}
        return run(["git", "-c", "safe.directory=*", *arguments], environment=environment, cwd=cwd)

"""The stack as a whole: what is started after what, and the repository and deployment that go with it."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.stack.processes import run
from infra.stack.services import CEPH, RAY, Services, install_packages
from infra.stack.settings import PROJECT, Settings

ORDER = ("worker", *reversed(RAY), "prefect", "postgres", *reversed(CEPH))
"""What is ended, in this order."""


class Stack:
    """PostgreSQL, a Prefect server, a real S3 server, two Ray nodes, a worker, and a repository for it."""

    def __init__(self, folder: Path, *, free_ports: bool = False) -> None:
        self.settings = Settings.of(folder, free_ports=free_ports)
        self.services = Services(self.settings)
        self.processes = self.services.processes

    def up(self) -> None:
        """Start whatever does not run, wait until it answers, and make what goes with it.

        Raises `ServiceError` for a service that does not come up, with its last words.
        """
        install_packages()
        self.settings.write_environment()
        with ThreadPoolExecutor(3) as several:
            started = [
                several.submit(self._api),
                several.submit(self._storage),
                several.submit(self.services.ray),
            ]
        for one in started:
            one.result()
        self._deploy()
        self.services.worker()

    def down(self, *, purge: bool = False) -> None:
        """End all of it. The objects on S3 go with it: they are in memory; `purge` removes the rest too."""
        for name in ORDER:
            self.processes.stop(name)
        shutil.rmtree(self.settings.folder / "ceph", ignore_errors=True)
        if purge:
            shutil.rmtree(self.settings.folder, ignore_errors=True)
            shutil.rmtree(self.settings.outside, ignore_errors=True)

    def kill(self, name: str) -> None:
        """Kill a service as a fault would: at once, and what it has started with it."""
        self.processes.kill(name)

    def restart(self, name: str) -> None:
        """End a service if it runs, and start it again."""
        self.processes.stop(name)
        {
            "postgres": self.services.postgres,
            "prefect": self.services.prefect,
            "worker": self.services.worker,
            **dict.fromkeys(CEPH, self.services.s3),
            **dict.fromkeys(RAY, self.services.ray),
        }[name]()

    def _api(self) -> None:
        self.services.postgres()
        self.services.prefect()

    def _storage(self) -> None:
        self.services.s3()
        self._seed()

    def _seed(self) -> None:
        """Make the repository that workers clone: this checkout's commit, and one with the demo's data."""
        bare, clone = self.settings.repository, self.settings.folder / "clone"
        for old in (bare, clone):
            shutil.rmtree(old, ignore_errors=True)
        self._git("init", "--quiet", "--bare", "--initial-branch", "main", str(bare), cwd=PROJECT)
        # By a commit of its own, from the tree as it is committed: the checkout is not touched.
        self._git("clone", "--quiet", "--no-local", str(PROJECT), str(clone), cwd=PROJECT)
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
        environment, clone = self.services.environment, self.settings.folder / "clone"
        run(
            ["prefect", "work-pool", "create", "ttl", "--type", "process", "--overwrite"],
            environment=environment,
            cwd=clone,
        )
        run(["prefect", "--no-prompt", "deploy", "--all"], environment=environment, cwd=clone)
        known = run(["prefect", "automation", "ls"], environment=environment, cwd=clone)
        if "ttl-sweep" not in known:
            made = ["prefect", "automation", "create", "--from-file", "infra/automations.yaml"]
            run(made, environment=environment, cwd=clone)

    def _git(self, *arguments: str, cwd: Path) -> None:
        # The settings of a person's git, such as signing, are not for the stack.
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        environment = {**self.services.environment, **alone}
        run(["git", "-c", "safe.directory=*", *arguments], environment=environment, cwd=cwd)

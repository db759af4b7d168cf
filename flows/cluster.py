"""A crew on a Ray cluster, which is there already: on Kubernetes, under Slurm, or on plain machines."""

import logging
import os
import shutil
import socket
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.crew import LOOK_SECONDS, Crew, Pack, title
from flows.datasets import make_available
from flows.progress import Listener
from ttl.errors import ServiceError, TrialError
from ttl.layout import Layout
from ttl.patience import patience
from ttl.training.devices import Lease, Slot, find_slots, take
from ttl.training.events import ENDS, Event
from ttl.training.trial import Step
from ttl.training.worker import STOPPING, Worker

MOST_CRASHES = 3
"""So many packs in a row may be lost with the machine that ran them."""

CARRIED = ("ttl", "flows", "params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config")
"""What of the project's folder goes to the machines of a cluster: code and pointers, and no image."""


class Cluster(Crew):
    """A Ray cluster that is up: Ray finds each pack the devices it asks for, all on one of its machines."""

    def __init__(
        self,
        layout: Layout,
        listener: Listener,
        *,
        processes: int,
        limit: int | None,
        resource: str,
        revisions: dict[str, str],
    ) -> None:
        super().__init__()
        self.layout, self.listener, self.processes, self.limit = layout, listener, processes, limit
        self.resource, self.revisions = resource, revisions
        self.crashes = self.wave = 0
        self.waves: dict[Any, int] = {}
        self.empty_since = time.monotonic()

    def __enter__(self) -> Self:
        """Join the cluster that RAY_ADDRESS names, or that runs on this machine."""
        if not os.environ.get("PREFECT_API_URL"):
            raise ServiceError(
                "executor ray needs a Prefect server that the cluster's machines reach: set PREFECT_API_URL"
            )
        try:
            # It takes seconds to import, is installed by those who need it alone.
            import ray  # noqa: PLC0415
            from prefect_ray.task_runners import RayTaskRunner  # noqa: PLC0415
        except ImportError as error:
            raise ServiceError("executor ray needs more packages: install ttl[ray]") from error
        address = os.environ.get("RAY_ADDRESS", "auto")
        self.carried = tempfile.TemporaryDirectory(prefix="ttl-ray-")
        environment = {"working_dir": _carry(self.layout.root, Path(self.carried.name))}
        try:
            ray.init(
                address=address,
                namespace="ttl",
                runtime_env=environment,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as error:
            raise ServiceError(
                f"no Ray cluster answers at {address} ({error}); start one (infra/), or set RAY_ADDRESS"
            ) from error
        self.ray: Any = ray
        self.runner: Any = RayTaskRunner()
        self.runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what still runs, and leave the cluster."""
        for future in self.running:
            self.ray.cancel(future.wrapped_future, force=True)
        self.runner.__exit__(kind, error, trace)
        self.ray.shutdown()
        self.carried.cleanup()

    def places(self, wanted: int) -> tuple[str, ...]:
        """Return as many names as jobs fit on the cluster's machines as they are now."""
        names = [
            f"{node['NodeManagerHostname']} {node['NodeID'][:6]}"
            for node in self.ray.nodes()
            if node["Alive"]
            for _ in range(int(node["Resources"].get(self._asked_for(), 0)) // self.processes)
        ]
        self._check_not_empty(names)
        return tuple(names[: self.limit])

    def start(self, pack: Pack) -> None:
        """Have a pack run wherever there is room."""
        from prefect_ray.context import remote_options  # noqa: PLC0415

        asked = self._asked_for()
        need: dict[str, Any] = (
            {"num_gpus": self.processes} if asked == "GPU" else {"resources": {asked: self.processes}}
        )
        shared = None if self.layout.runs.store else str(self.layout.root.resolve())
        parameters = {
            "title": title(pack),
            "steps": [step.to_dict() for step in pack],
            "revisions": {step.trial.dataset: self.revisions[step.trial.dataset] for step in pack},
            "shared": shared,
        }
        # What is lost with a machine is handed out anew by the sweep: that knows what of it was done.
        with remote_options(num_cpus=0, max_retries=0, **need):
            try:
                future = self.runner.submit(task=run_pack_elsewhere, parameters=parameters)
            except TypeError:
                # Ray would show all that it was to send, the password of the API included.
                raise ServiceError(
                    f"{title(pack)} could not be sent to the cluster: Ray cannot pickle it"
                ) from None
        self.waves[future] = self.wave
        self._follow(future, pack)

    def collect(self, future: Any) -> bool:
        """Take note of a pack that has ended, on a machine that may have gone."""
        future.wait()
        wave = self.waves.pop(future)
        if future.state.is_crashed():
            # One machine takes several packs with it: those that began before the last loss count as one.
            if wave == self.wave:
                self.wave += 1
                self.crashes += 1
            text = " ".join(str(future.state.message).split())[:200]
            if self.crashes > MOST_CRASHES:
                raise ServiceError(
                    f"{self.crashes} packs in a row were lost with the machine they ran on: {text}"
                )
            self.listener.said(f"a machine of the cluster was lost, its trials go to another ({text})")
            return False
        self.crashes = 0
        for place, event in future.result():
            self.listener.happened(place, Event(**event))
        return True

    def _check_not_empty(self, names: list[str]) -> None:
        """Raise `ServiceError` when no machine has had room for a job for a while."""
        now = time.monotonic()
        if names or self.running:
            self.empty_since = now
        elif now - self.empty_since > patience():
            raise ServiceError(
                f"no machine of the cluster has {self.processes} {self._asked_for()}, which a job asks for; "
                f"start some, with --resources='{{\"{self.resource}\": N}}' where there are no GPUs"
            )

    def _asked_for(self) -> str:
        """Return `GPU` where the cluster has any, else the resource that stands for a device."""
        total = self.ray.cluster_resources()
        return "GPU" if total.get("GPU", 0) else self.resource


@task(name="pack", task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False)
def run_pack_elsewhere(
    title: str, steps: list[dict[str, Any]], revisions: dict[str, str], shared: str | None
) -> list[tuple[str, dict[str, Any]]]:
    """Run a pack of steps on the machine of a cluster that this is; return what happened, and where.

    Without a store the results go to the project's folder `shared`, which all machines must see.
    """
    pack = [Step.from_dict(step) for step in steps]
    layout = Layout(root=Path(shared) if shared else Path.cwd())
    if shared and not layout.root.is_dir():
        raise ServiceError(
            f"this machine does not see {shared}, and TTL_STORE is not set: without a store for the results, "
            "all machines of the cluster must share the project's folder"
        )
    make_available(layout, revisions, shared=bool(shared))
    happened: list[tuple[str, dict[str, Any]]] = []
    slot, lease = _any_slot(pack[0].trial.processes)

    def on_event(event: Event) -> None:
        if event.kind in (*ENDS, "message"):
            happened.append((slot.name, asdict(event)))

    with Worker(slot, layout.runs, layout.datasets, lease) as worker:
        worker.run(pack, on_event)
    return happened


def _carry(root: Path, to: Path) -> str:
    """Copy what goes to the cluster's machines into a folder, and return its name."""
    for name in CARRIED:
        source, target = root / name, to / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    return str(to)


def _any_slot(processes: int) -> tuple[Slot, Lease]:
    """Return a slot of this machine with its lease, as soon as one is free.

    Raises `ServiceError` if none is for a while: Ray had given us the device, and somebody else has it.
    """
    deadline = time.monotonic() + patience()
    while True:
        for slot in find_slots(processes):
            lease = take(slot)
            if isinstance(lease, Lease):
                return slot, lease
            by = f"{slot.name} of {socket.gethostname()}, which Ray gave, is taken by {lease.by}"
        if STOPPING.wait(LOOK_SECONDS):
            raise TrialError("the sweep was stopped")
        if time.monotonic() > deadline:
            raise ServiceError(by)

"""Datasets on a machine that has only the repository: pulled by DVC, by revision, once for each machine."""

import functools
from pathlib import Path
from typing import Any

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from flows.dvc import dvc_lock, pointer, run_dvc, use_machine_cache
from ttl.data.dataset import PackedDataset
from ttl.errors import DataError, ServiceError
from ttl.layout import Layout


def make_available(layout: Layout, revisions: dict[str, str], *, shared: bool) -> None:
    """Have these datasets in `data/packed`, at these revisions; in a `shared` folder they are there already.

    Raises `DataError` for one that the repository has at another revision.
    """
    for name, revision in revisions.items():
        if not shared:
            pull_dataset(name, layout)
        found = PackedDataset.open(layout.datasets / name).revision
        if found != revision:
            raise DataError(
                f"{name} is wanted at revision {revision}, and dvc.lock gives {found} on this machine; "
                "`dvc push` and `git push` what the sweep is to use"
            )


@functools.cache
def pull(layout: Layout, name: str) -> None:
    """Have a dataset in `data/packed` as dvc.lock has it, from DVC's remote; DVC's cache is the machine's.

    Raises `DataError` where dvc.lock does not know it, `ServiceError` where it cannot be pulled.
    """
    place = (layout.datasets / name).relative_to(layout.root)
    grows = pointer(layout, name).is_file()
    if not grows and str(place) not in _locked(layout.root):
        raise DataError(
            f"dvc.lock in {layout.root} does not name {place}: run "
            f"`dvc repro prepare@{name}` and `dvc push`, and commit dvc.lock; of a dataset that grows by "
            f"drops, {place}.dvc is committed by the flow ttl-intake"
        )
    use_machine_cache(layout)
    with dvc_lock():
        run_dvc(layout.root, "pull", "--force", f"{place}.dvc" if grows else str(place))


def may_pass(_: Any, __: Any, state: Any) -> bool:
    """Return whether what a task failed of may pass by itself: a service's silence may, bad data does not."""
    return isinstance(state.result(raise_on_failure=False), ServiceError)


RETRIED: Any = {
    "cache_policy": NO_CACHE,
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_condition_fn": may_pass,
}
"""How a task is tried again that needs a network or a storage."""


@task(name="pull", task_run_name="pull {name}", **RETRIED)
def pull_dataset(name: str, layout: Layout) -> None:
    """Have a dataset on this machine; where the network or the storage fail, try again."""
    pull(layout, name)


def _locked(root: Path) -> set[str]:
    try:
        values = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    return {out["path"] for stage in values["stages"].values() for out in stage.get("outs", ())}

"""What a sweep of thousands of trials costs beside its training: idle trials, through the real flow.

    source .stack/env; python -m benchmarks.scale --trials 2000

It uses the Prefect server that PREFECT_API_URL names (without it a local one), and the store of TTL_STORE.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from ttl.data.prepare import prepare
from ttl.data.spec import DatasetSpec

CUTS = 3
"""Trials that each seed gives."""


def main() -> None:
    """Run the sweep and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--server", type=int, help="The process of the Prefect server, to see its memory.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare(
            "toy", DatasetSpec(source="phantom", size=32, options={"patients": 44}), Path("data/packed/toy")
        )
        settings = {
            "prepare": {"toy": {"source": "phantom", "input": "x"}},
            "sweep": {
                "backbones": ["resnet10t"],
                "sources": ["random"],
                "strategies": ["ttl"],
                "planner": "exhaustive",
                "seeds": list(range(-(-arguments.trials // CUTS))),
                "recipe": {"base": "fast", "epochs": 1},
                "image_size": 32,
            },
        }
        Path("params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        run(arguments.server)


def run(server: int | None) -> None:
    """Run the flow in this process, with jobs that do not train."""
    from flows.server import prefect_api  # noqa: PLC0415

    before = memory(server)
    with prefect_api(Path("logs/prefect"), Path("logs/prefect.log")):
        from flows.sweep import ttl_sweep  # noqa: PLC0415
        from ttl.training import launch  # noqa: PLC0415

        launch.PROGRAM = "benchmarks.idle_job"
        started = time.monotonic()
        outcome = ttl_sweep()
        seconds = time.monotonic() - started
    trials = outcome["trials"]
    each = f"{1000 * seconds / trials:.0f} ms a trial"
    print(f"{trials} trials, {outcome['failed']} failed, {seconds:.0f} s: {each}")
    print(f"memory of this process {memory(os.getpid()):.0f} MB")
    if server:
        print(f"memory of the server {before:.0f} MB before, {memory(server):.0f} MB after")


def memory(pid: int | None) -> float:
    """Return the resident memory of a process and its children, in MB."""
    if pid is None:
        return 0.0
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 1e6


if __name__ == "__main__":
    main()

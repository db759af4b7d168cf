"""A project's folder, and the command line run in it as a person would."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]

SWEEP = {
    "sources": ["random"],
    "strategies": ["ftl", "ttl"],
    "planner": "exhaustive",
    "seeds": [0],
    "recipe": {"base": "fast", "epochs": 2, "batch_size": 16},
    "image_size": 32,
}


@dataclass(frozen=True)
class Project:
    """A folder with `params.yaml` and a packed dataset, `toy`. `environment` is added to the one it has."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder, datasets, environment=None, **sweep):
        """Make the folder, with a copy of the packed datasets and a sweep of these settings."""
        shutil.copytree(datasets, folder / "data" / "packed")
        project = cls(folder, environment or {})
        project.params(**sweep)
        return project

    def params(self, **changes):
        """Write `params.yaml`."""
        values = {
            "prepare": {"toy": {"source": "phantom", "input": "x"}},
            "sweep": {**SWEEP, **changes},
            "selection": {"margin": 0.4, "resamples": 200},
        }
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))

    def start(self, *arguments):
        """Start `ttl …` in the folder."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        # Tests side by side have all devices each, and wait for none.
        environment["TTL_DEVICES"] = str(self.folder / "devices")
        for name in ("PREFECT_API_URL", "TTL_STORE"):
            environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "ttl.cli", *arguments],
            cwd=self.folder,
            env={**environment, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments):
        """Run `ttl …` in the folder; return its exit status and what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

"""Promises that the repository makes as a whole: imports, DVC stages, pinned packages."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import yaml

from ttl.models import names
from ttl.models.network import STRATEGIES

ROOT = Path(__file__).parents[1]
ORDER = ["data", "intake", "models", "evaluation", "training", "search", "release", "cli"]
ALLOWED_HOMES = {"dvc": "ttl/release/", "gto": "ttl/release/", "prefect": "flows/"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def modules():
    return [path for folder in ("ttl", "flows") for path in (ROOT / folder).rglob("*.py")]


def test_imports_point_one_way():
    wrong = []
    for path in (ROOT / "ttl").glob("*/**/*.py"):
        own = ORDER.index(path.relative_to(ROOT / "ttl").parts[0])
        for module in imported(path):
            part = module.split(".")
            runs_flows = part[0] == "flows" and ORDER[own] != "cli"
            if runs_flows or (part[0] == "ttl" and part[1:2] and part[1] in ORDER[own + 1 :]):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_each_outer_package_has_its_home():
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules()
        for module in imported(path)
        if not path.relative_to(ROOT).as_posix().startswith(ALLOWED_HOMES.get(module.split(".")[0], ""))
    ]
    assert not wrong


def test_a_finished_sweep_and_a_decision_are_answered_without_torch():
    """Importing it takes seconds, and the answer lies in tables and tags."""
    modules = "ttl.cli, ttl.tables, ttl.search.outcome, ttl.release.decisions"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_strategies_have_one_set_of_names():
    assert tuple(STRATEGIES) == get_args(names.Strategy)


def test_what_stages_depend_on_exists():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = [one for stage in stages.values() for one in (stage.get("do") or stage)["deps"]]
    code = [one for one in named if one.startswith(("ttl", "flows"))]
    assert len(code) >= 4
    assert not [one for one in code if not (ROOT / one).exists()]


def test_a_change_of_any_code_or_package_makes_the_sweep_and_the_report_look_again():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {"ttl", "flows/sweep.py", "requirements.lock", "data/packed"} <= set(stages["sweep"]["deps"])
    assert {"ttl", "results"} <= set(stages["report"]["deps"])


def test_every_pin_has_its_hash_and_no_host():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(r"^[a-z0-9._-]+==[^\n]*\\\n\s+--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE)) > 100


def test_the_readme_describes_folders_that_exist():
    house = (ROOT / "README.md").read_text().partition("## The house")[2]
    paths = re.findall(r"^((?:ttl|flows|tests|infra)/\S*)", house, re.MULTILINE)
    assert len(paths) >= 9
    assert all((ROOT / path).exists() for path in paths)

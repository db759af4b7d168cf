"""Whether a release would bring everything back: the checks made before a tag is set."""

import re
from pathlib import Path
from typing import Any, cast

import yaml
from gto.constants import name_re

from ttl.errors import ReleaseError
from ttl.release import vcs
from ttl.release.description import DESCRIPTION, Description, read_description

MODELS = "models"


def check_model(root: Path, dataset: str) -> Description:
    """Return the description of the model in `models/<dataset>`, which must be a whole one."""
    if not name_re.search(dataset):
        raise ReleaseError(f"{dataset!r} cannot name a release: letters, digits, '-', '_' and '/' can")
    folder = root / MODELS / dataset
    if not (folder / DESCRIPTION).is_file():
        made = sorted(path.parent.name for path in (root / MODELS).glob(f"*/{DESCRIPTION}"))
        raise ReleaseError(
            f"there is no model of {dataset} in {folder}; `dvc repro` makes it"
            + (f" (there is one of: {', '.join(made)})" if made else "")
        )
    description = read_description(folder)
    if description.dataset != dataset:
        raise ReleaseError(f"{folder} holds a model of {description.dataset}, not of {dataset}")
    return description


def check_restorable(root: Path, dataset: str) -> None:
    """Refuse a state that a tag could not bring back: `git checkout TAG && dvc pull` must give it all."""
    changed = vcs.changed_code(root)
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise ReleaseError(
            f"these files are not committed, so the release would miss them: {shown}; commit them"
        )
    artifacts = (_read_yaml(root / "dvc.yaml").get("artifacts") or {}).get(dataset) or {}
    path = f"{MODELS}/{dataset}"
    if artifacts.get("path") != path:
        raise ReleaseError(
            f"dvc.yaml does not list the model of {dataset}; add under `artifacts:`\n"
            f"  {dataset}:\n    path: {path}\n    type: model"
        )
    owners = [
        stage
        for stage, entry in (_read_yaml(root / "dvc.lock").get("stages") or {}).items()
        if any(out["path"].rstrip("/") in (MODELS, path) for out in entry.get("outs", ()))
    ]
    if not owners:
        raise ReleaseError(f"DVC does not track {path}; make the model with `dvc repro`")
    status = vcs.dvc(root, "status", "--json", "--with-deps", *owners)
    differences = yaml.safe_load(status)
    if differences:
        raise ReleaseError(
            f"{path} is not what dvc.lock records ({_describe(differences)}): it was made by a sweep other "
            "than that of params.yaml, or its inputs have changed; run `dvc repro`"
        )


def _describe(differences: dict[str, Any]) -> str:
    parts = []
    for stage, changes in differences.items():
        for change in changes:
            listed = change.items() if isinstance(change, dict) else [(change, "")]
            parts += [f"{stage}: {kind} {items}".rstrip() for kind, items in listed]
    return re.sub(r"[{}']", "", "; ".join(parts))


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReleaseError(f"{path} does not exist; make the model with `dvc repro` first")
    return cast("dict[str, Any]", yaml.safe_load(path.read_text(encoding="utf-8")) or {})

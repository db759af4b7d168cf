"""The champion of a dataset, with its files, and the drops that its data were made of."""

import json
from dataclasses import dataclass
from pathlib import Path

from ttl.cache import cache_folder
from ttl.release import registry, vcs
from ttl.release.evidence_files import FOLDER, VALUES
from ttl.release.history import CHAMPION, champion_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in its folder; `version` is empty for one that is not released."""

    folder: Path
    version: str = ""


def find_champion(dataset: str, *, repo: Path) -> Model | None:
    """Return the champion with its files, None where there is none yet."""
    version = champion_version(dataset, repo=repo)
    if version is None:
        return None
    folder = registry.fetch(f"{dataset}#{CHAMPION}", cache_folder("releases"), repo=repo)
    return Model(folder=folder, version=version)


def drops_of(dataset: str, champion: Model, *, repo: Path) -> set[str]:
    """Return the digests of the drops that a champion's data were made of, as its evidence has them."""
    shown = vcs.attempt_git(repo, "show", f"{dataset}@{champion.version}:{FOLDER}/{dataset}/{VALUES}")
    # A champion that no gate has proposed has no evidence: all drops may be new to it.
    drops = [] if shown.returncode else json.loads(shown.stdout)["data"]["drops"]
    return {one["digest"] for one in drops}

"""Where everything lies in a project's folder."""

from dataclasses import dataclass
from pathlib import Path

from ttl.training.runs import Runs
from ttl.training.store import shared_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The folders of a project."""

    root: Path

    @property
    def datasets(self) -> Path:
        """Packed datasets, a folder each."""
        return self.root / "data" / "packed"

    @property
    def runs(self) -> Runs:
        """The trials' folders, and the store that `TTL_STORE` names."""
        return Runs(self.root / "runs", shared_store())

    @property
    def results(self) -> Path:
        """The tables of the last sweep."""
        return self.root / "results"

    @property
    def models(self) -> Path:
        """The selected models, a folder a dataset."""
        return self.root / "models"

    @property
    def analysis(self) -> Path:
        """What was looked at in trained networks, a folder a dataset; DVC keeps it with the tables."""
        return self.results / "analysis"

    @property
    def logs(self) -> Path:
        """Logs of services."""
        return self.root / "logs"

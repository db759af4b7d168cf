"""How new drops compare with what their sites had sent before, as the champion sees them."""

from collections.abc import Iterable
from typing import Any

from flows.proposals import find_champion
from ttl.data.dataset import PackedDataset
from ttl.errors import TTLError
from ttl.evaluation.drift import DriftReport
from ttl.intake.append import Taken
from ttl.layout import Layout
from ttl.release import vcs
from ttl.release.evidence import Model
from ttl.release.watch import drift_of

NOT_TOLD = "not told"


def drift_rows(name: str, layout: Layout, drops: Iterable[Taken], *, own: bool) -> list[dict[str, Any]]:
    """Return a row for each drop that brought images: whether they drifted, and in which views.

    Without a champion, the pixels alone are compared. A deployment's `own` clone is told of the tags first.
    Where it cannot be told, such as with a champion that cannot be fetched, the row says why: the revision
    is there, and the retraining looks again.
    """
    brought = [f"{one.site}/{one.drop}" for one in drops if one.accepted]
    if not brought:
        return []
    try:
        remote = vcs.find_remote(layout.root)
        if own and remote is not None:
            vcs.fetch_tags(layout.root, remote, name)
        champion = find_champion(layout, name)
        dataset = PackedDataset.open(layout.datasets / name)
    except TTLError as error:
        return [_not_told(drop, error) for drop in brought]
    return [_row(dataset, drop, champion) for drop in brought]


def _row(dataset: PackedDataset, drop: str, champion: Model | None) -> dict[str, Any]:
    try:
        report = drift_of(dataset, drop, None if champion is None else champion.folder)
    except TTLError as error:
        return _not_told(drop, error)
    return {"drop": drop, "drifted": "yes" if report.drifted else "no", **_views(report)}


def _not_told(drop: str, error: TTLError) -> dict[str, Any]:
    return {"drop": drop, "drifted": NOT_TOLD, "views": str(error), "rank": None}


def _views(report: DriftReport) -> dict[str, Any]:
    """Return the views that fire, or all that were looked at; and how rare so much is without a change."""
    fired = [view for view, one in report.views.items() if one.fired]
    return {"views": ", ".join(fired or report.views), "rank": report.rank}

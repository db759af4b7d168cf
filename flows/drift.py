"""How new drops compare with what their sites had sent before, as the champion sees them."""

from collections.abc import Iterable
from typing import Any

from ttl.data.dataset import PackedDataset
from ttl.evaluation.drift import DriftReport
from ttl.intake.append import Taken
from ttl.layout import Layout
from ttl.release import vcs
from ttl.release.champion import find_champion
from ttl.release.watch import Watched, watch


def drift_rows(name: str, layout: Layout, drops: Iterable[Taken], *, own: bool) -> list[dict[str, Any]]:
    """Return a row for each drop that brought images: whether they drifted, and in which views.

    Without a champion, the pixels alone are compared. A deployment's `own` clone is told of the tags first.
    """
    brought = [one for one in drops if one.accepted]
    if not brought:
        return []
    remote = vcs.find_remote(layout.root)
    if own and remote is not None:
        vcs.fetch_tags(layout.root, remote, name)
    champion = find_champion(name, repo=layout.root)
    dataset = PackedDataset.open(layout.datasets / name)
    return [_row(one) for one in watch(dataset, brought, None if champion is None else champion.folder)]


def _row(one: Watched) -> dict[str, Any]:
    if isinstance(one.found, str):
        return {"drop": one.title, "drifted": "not told", "views": one.found, "rank": None}
    return {"drop": one.title, "drifted": "yes" if one.found.drifted else "no", **_views(one.found)}


def _views(report: DriftReport) -> dict[str, Any]:
    """Return the views that fire, or all that were looked at; and how rare so much is without a change."""
    fired = [view for view, one in report.views.items() if one.fired]
    return {"views": ", ".join(fired or report.views), "rank": report.rank}

"""How new drops compare with what their sites had sent before, as the champion sees them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ttl.data.dataset import PackedDataset
from ttl.errors import TTLError
from ttl.evaluation.drift import DriftReport
from ttl.intake.received import Taken
from ttl.layout import Layout
from ttl.release import vcs
from ttl.release.champion import find_champion
from ttl.release.watch import watch

NOT_TOLD = "not told"


def drift_rows(name: str, layout: Layout, drops: Iterable[Taken], *, own: bool) -> list[dict[str, Any]]:
    """Return a row for each drop that brought images: whether they drifted, and in which views.

    Without a champion, the pixels alone are compared. A deployment's `own` clone is told of the tags first.
    Where it cannot be told, such as with a champion that cannot be fetched, the row says why: the revision
    is there, and the retraining looks again.
    """
    brought = [one for one in drops if one.accepted]
    if not brought:
        return []
    try:
        if own:
            vcs.update_tags(layout.root, name)
        champion = find_champion(name, repo=layout.root)
        dataset = PackedDataset.open(layout.datasets / name)
    except TTLError as error:
        return [_not_told(f"{one.site}/{one.drop}", str(error)) for one in brought]
    return [_row(dataset, one, None if champion is None else champion.folder) for one in brought]


def _row(dataset: PackedDataset, drop: Taken, model: Path | None) -> dict[str, Any]:
    try:
        (one,) = watch(dataset, [drop], model)
    except TTLError as error:
        return _not_told(f"{drop.site}/{drop.drop}", str(error))
    if isinstance(one.found, str):
        return _not_told(one.title, one.found)
    return {"drop": one.title, "drifted": "yes" if one.found.drifted else "no", **_views(one.found)}


def _not_told(drop: str, why: str) -> dict[str, Any]:
    return {"drop": drop, "drifted": NOT_TOLD, "views": why, "rank": None}


def _views(report: DriftReport) -> dict[str, Any]:
    """Return the views that fire, or all that were looked at; and how rare so much is without a change."""
    fired = [view for view, one in report.views.items() if one.fired]
    return {"views": ", ".join(fired or report.views), "rank": report.rank}

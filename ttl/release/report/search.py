"""The search: how far each model was trained, and why no further, as a figure of its ledger."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup
from matplotlib.patches import Rectangle

from ttl.release import svg
from ttl.release.report.tables import model_of, name_of, values_of
from ttl.search import results

MOST = 60
"""Models of a figure at most; the table has all."""

HATCHES = {"in part": "////", "failed": "xxxx"}


def search_of(ledger: pl.DataFrame, *, name: str) -> dict[str, Any]:
    """Return a search's ledger: its rows, how many models came how far, the share of epochs, its figure."""
    factors = results.factors(ledger)
    complete = bool((ledger["trained"] == "to the end").all())
    full = int(ledger["full_epochs"].sum())
    return {
        "rows": [{**row, "factors": values_of(row, factors)} for row in ledger.to_dicts()],
        "models": dict(ledger.group_by("trained", maintain_order=True).len().iter_rows()),
        "complete": complete,
        "epochs": int(ledger["epochs"].sum()),
        "full_epochs": full,
        "share": int(ledger["epochs"].sum()) / full if full else 0.0,
        "svg": Markup(course(ledger, name=name)) if not complete and ledger.height <= MOST else None,
    }


def course(ledger: pl.DataFrame, *, name: str) -> str:
    """Return a bar a model, in the ledger's order: epochs trained of those that there are, over all seeds."""
    rows = ledger.to_dicts()
    models = [model_of(row) for row in rows]
    most = max(row["full_epochs"] for row in rows)
    tips: dict[str, str] = {}
    with svg.drawing(560.0, 60.0 + 19.0 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            colour = svg.mark(row["strategy"]).light
            axes.add_patch(
                Rectangle((0, place - 0.34), row["full_epochs"], 0.68, fc="none", ec=svg.GRID, lw=1.0)
            )
            bar = Rectangle((0, place - 0.34), row["epochs"], 0.68, fc=colour, ec=svg.PAPER, lw=0.4)
            bar.set_hatch(HATCHES.get(row["trained"], ""))
            bar.set_gid(f"bar-{place}")
            axes.add_patch(bar)
            axes.text(most * 1.02, place, _said(row), va="center", fontsize=10, color=svg.INK)
            tips[f"bar-{place}"] = (
                f"{name_of(models[place], among=models)}: {row['reason'] or row['trained']}"
            )
        axes.set_yticks(range(len(rows)), [name_of(model, among=models) for model in models])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, most * 1.32)
        axes.set_xticks([0, most])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.set_xlabel("epochs, over all seeds")
        words = ", ".join(f"{count} {how}" for how, count in _counted(rows).items())
        return svg.finish(figure, name=name, label=f"How far each model was trained: {words}", tips=tips)


def _said(row: Mapping[str, Any]) -> str:
    return "never" if row["trained"] == "never" else f"{row['epochs']}/{row['full_epochs']} {row['trained']}"


def _counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        found[row["trained"]] = found.get(row["trained"], 0) + 1
    return found

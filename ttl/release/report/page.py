"""The report: one HTML page, complete in itself, from what a sweep has left."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from ttl.errors import ReleaseError
from ttl.layout import Layout
from ttl.release import svg
from ttl.release.report.models import legend
from ttl.release.report.section import Material, section, with_pictures
from ttl.release.report.words import code, interval, number, percent, signed, spread
from ttl.search import results
from ttl.units import magnitude, percentage

PAGE = "index.html"
LIMIT = 10_000_000
"""Bytes of a page at most: what mail takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Pixels of pictures at most: an example's longer side, a sheet's width; 0 for none. `note` says it."""

    side: int
    widest: int
    note: str = ""


QUALITIES = (
    Quality(side=160, widest=1600),
    Quality(side=80, widest=900, note="Pictures are smaller than usual, so that the page stays small."),
    Quality(side=0, widest=0, note="Pictures are left out: with them the page would be larger than 10 MB."),
)
"""From the best to none: the first is taken with which the page is not too large."""


def write_report(layout: Layout, out: Path, *, pictures: bool | None = None, limit: int = LIMIT) -> Path:
    """Write `out/index.html` from the tables in `layout.results`; return its path.

    `pictures` says whether single images, and their ids, are shown; None shows those of synthetic datasets
    alone, since pages are sent on. Raises `SearchError` if there are no tables, and `ReleaseError` for a page
    of more than `limit` bytes without any picture.
    """
    trials = results.read_trials(layout.results)
    history, ledger = results.read_history(layout.results), results.read_ledger(layout.results)
    entries = results.read_entries(layout.results)
    materials = [
        Material(
            name=name,
            trials=trials.filter(pl.col("dataset") == name),
            history=history,
            entry=entries[name],
            ledger=ledger.filter(pl.col("dataset") == name),
            layout=layout,
            pictures=entries[name]["data"]["synthetic"] if pictures is None else pictures,
            anchor=f"{re.sub('[^A-Za-z0-9]', '-', name)}-{place}",
        )
        for place, name in enumerate(sorted(trials["dataset"].unique().to_list()), 1)
    ]
    sections = [section(one) for one in materials]
    for quality in QUALITIES:
        shown = [with_pictures(one, quality.side, quality.widest) for one in sections]
        text = render(shown, trials, note=quality.note)
        if len(text.encode()) <= limit:
            break
    else:
        raise ReleaseError(
            f"the report of {len(sections)} datasets would be a page of {len(text.encode()) / 1e6:.1f} MB "
            f"without any picture, and {limit / 1e6:g} MB is the limit; sweep fewer datasets at once"
        )
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".{PAGE}"
    aside.write_text(text, encoding="utf-8")
    return aside.replace(out / PAGE)


def render(sections: Sequence[dict[str, Any]], trials: pl.DataFrame, *, note: str) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("ttl.release"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"magnitude": magnitude, "number": number, "interval": interval, "signed": signed}
    environment.filters |= {
        **filters,
        "percent": percent,
        "percentage": percentage,
        "spread": spread,
        "code": code,
    }
    return environment.get_template("report/page.html.j2").render(
        sections=sections, variables=svg.variables(), strategies=legend(trials), note=note
    )

"""The report: one HTML page, complete in itself, from the tables of a sweep."""

from pathlib import Path

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from ttl.release import svg
from ttl.release.report.section import legend, section
from ttl.release.report.words import interval, number, signed
from ttl.search import results
from ttl.units import magnitude

PAGE = "index.html"


def write_report(folder: Path, out: Path) -> Path:
    """Write `out/index.html` from the tables in `folder`; return its path.

    Raises `SearchError` if there are no tables.
    """
    trials, history = results.read_trials(folder), results.read_history(folder)
    entries, ledger = results.read_entries(folder), results.read_ledger(folder)
    names = sorted(trials["dataset"].unique().to_list())
    sections = [
        section(
            name,
            trials.filter(pl.col("dataset") == name),
            history,
            entries[name],
            ledger.filter(pl.col("dataset") == name),
        )
        for name in names
    ]
    environment = Environment(
        loader=PackageLoader("ttl.release"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"magnitude": magnitude, "number": number, "interval": interval, "signed": signed}
    text = environment.get_template("report/page.html.j2").render(
        sections=sections, variables=svg.variables(), strategies=legend(trials)
    )
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".{PAGE}"
    aside.write_text(text, encoding="utf-8")
    return aside.replace(out / PAGE)

"""What the page says of one dataset, as plain values and figures for the template."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ttl.data.dataset import PackedDataset
from ttl.layout import Layout
from ttl.release.report import analysis
from ttl.release.report.headline import headlines
from ttl.release.report.images import PRIVATE, examples, open_dataset
from ttl.release.report.mistakes import mistakes
from ttl.release.report.models import draw, front_of, role
from ttl.release.report.scores import Scored, read_scored
from ttl.release.report.search import search_of
from ttl.release.report.subgroups import groups_of, subgroups
from ttl.release.report.tables import model_of, values_of
from ttl.release.report.tested import on_test
from ttl.search import results


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a section is made from: the tables, cut to its dataset, `entry` being that of `selection.json`.

    `pictures` says whether single images are shown, and their ids; `anchor` begins the section's ids.
    """

    name: str
    trials: pl.DataFrame
    history: pl.DataFrame
    entry: Mapping[str, Any]
    ledger: pl.DataFrame
    layout: Layout
    pictures: bool
    anchor: str


def section(material: Material) -> dict[str, Any]:
    """Return all that the page says of one dataset, but the pictures of single images."""
    trials, entry, anchor = material.trials, material.entry, material.anchor
    factors = results.factors(trials)
    selection = None if "unselected" in entry else entry
    chosen = model_of(selection["chosen"]) if selection else None
    reference = model_of(selection["reference"]) if selection else None
    rows = [
        {**row, "role": role(row, chosen, reference), "factors": values_of(row, factors)}
        for row in results.leaderboard(trials).iter_rows(named=True)
    ]
    completed = trials.filter(pl.col("status") == "completed")
    failed = trials.filter(pl.col("status") == "failed")
    return {
        "material": material,
        "name": material.name,
        "anchor": anchor,
        "selection": selection,
        "unselected": entry.get("unselected"),
        "data": entry["data"],
        "factors": factors,
        "synthetic": entry["data"]["synthetic"],
        "rows": rows,
        "front": front_of(rows, selection),
        "whole": next((row for row in rows if row["role"] in ("reference", "selected, reference")), None),
        "failures": failed.select("strategy", "cut", "seed", "error").to_dicts(),
        "search": search_of(material.ledger, name=f"{anchor}-search"),
        "trials": trials.height,
        "seeds": trials["seed"].n_unique(),
        "drawn": draw(
            anchor,
            completed=completed,
            history=material.history,
            selection=selection,
            chosen=chosen,
            reference=reference,
        )
        if completed.height
        else None,
        "headlines": headlines(
            trials,
            material.ledger,
            material.layout.runs.predictions,
            dataset=material.name,
            entry=entry,
        ),
        "similarity": analysis.similarity(
            material.layout.analysis / material.name,
            trials,
            entry["data"]["revision"],
            name=f"{anchor}-similarity",
        ),
        **(_tested(material, selection, anchor) if selection else dict.fromkeys(TESTED)),
    }


TESTED = ("tested", "untested", "subgroups", "ungrouped", "mistakes", "packed")
"""What a section has of the test split, where a model was selected."""


def _tested(material: Material, selection: Mapping[str, Any], anchor: str) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(TESTED)
    tested = read_scored(material.layout.results, material.name, selection)
    if not isinstance(tested, Scored):
        return {**found, "untested": tested}
    packed = open_dataset(material.layout.datasets / material.name, selection["data"])
    found |= {"tested": on_test(tested, selection["figures"], name=anchor), "packed": packed}
    found["mistakes"] = mistakes(tested)
    if not isinstance(packed, PackedDataset):
        return {**found, "ungrouped": packed}
    if tested.multilabel:
        return {**found, "ungrouped": "Of several labels at once, subgroups are not compared yet."}
    groups = groups_of(packed.samples, tested.samples)
    found["subgroups"] = subgroups(tested, groups, selection["rule"])
    if not found["subgroups"]:
        found["ungrouped"] = "No site or year is known, or all test images are of one."
    return found


def with_pictures(found: Mapping[str, Any], side: int, widest: int) -> dict[str, Any]:
    """Return a section with its pictures: examples of at most `side` pixels, sheets of `widest`; 0: none."""
    material: Material = found["material"]
    layout, shown = material.layout, material.pictures and side > 0
    examples_: dict[str, Any] = {"examples": None, "unshown": ""}
    if found["mistakes"] is not None:
        packed = found["packed"]
        if not shown:
            examples_["unshown"] = PRIVATE if not material.pictures else "They do not fit in the page."
        elif isinstance(packed, PackedDataset):
            examples_["examples"] = examples(packed, found["mistakes"], side=side)
        else:
            examples_["unshown"] = packed
    sheet = analysis.attention(
        layout.analysis / material.name,
        material.trials,
        material.entry,
        pictures=shown,
        private=PRIVATE if not material.pictures else "",
        widest=widest,
    )
    return {
        **found,
        **examples_,
        "attention": sheet,
    }

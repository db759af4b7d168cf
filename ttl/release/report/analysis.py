"""What other commands have found in the trained networks, if it is of the networks that the page shows."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from ttl.errors import SearchError
from ttl.release.choice import best_trials
from ttl.release.finetuned import beside, best_whole
from ttl.release.report.pictures import document, sheet
from ttl.release.similarity import draw, read, summary
from ttl.training.runs import COMPLETED

SIMILARITY, ATTENTION = "similarity", "attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A figure that a command has drawn: its picture, its text for who cannot see it, its notes.

    Drawn for this page is `svg`, for any page `picture`. `rows` are its figures, a layer each. `missing` says
    why it is not shown, where it is not; then the rest is empty.
    """

    svg: str = ""
    picture: str = ""
    width: int = 0
    height: int = 0
    alt: str = ""
    notes: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    missing: str = ""


def similarity(folder: Path, trials: pl.DataFrame, revision: str, *, name: str) -> Looked:
    """Return the figure of `ttl similarity` for a dataset, whose trials are `trials`; `name` is its ids'.

    It is shown if it has all of them that the command would put into it today, and no others. A backbone
    that it lacks altogether may not have been asked for.
    """
    values = _values(folder / f"{SIMILARITY}.json", folder / f"{SIMILARITY}.svg")
    if isinstance(values, Looked):
        return values
    used = [one["finetuned"]["trial_id"] for one in values["backbones"]]
    used += [one for entry in values["backbones"] for one in _named(entry)]
    if foreign := _foreign(SIMILARITY, values, used, trials["trial_id"].to_list(), revision):
        return foreign
    for entry in values["backbones"]:
        if stale := _stale(entry, trials):
            return Looked(missing=f"What was looked at {stale}; `ttl {SIMILARITY}` looks again.")
    names = ", ".join(one["backbone"] for one in values["backbones"])
    picture, width, height = document(folder / f"{SIMILARITY}.svg")
    svg, rows = _drawn(folder, name)
    return Looked(
        svg=svg,
        rows=rows,
        picture=picture,
        width=width,
        height=height,
        alt=(
            f"Canonical correlations of features before and after finetuning, by layer, beside those of a "
            f"random network, for {names}"
        ),
        notes=tuple(f"{one['backbone']}: {note}" for one in values["backbones"] for note in one["notes"]),
    )


def attention(
    folder: Path, trials: pl.DataFrame, entry: Mapping[str, Any], *, pictures: bool, private: str, widest: int
) -> Looked:
    """Return the sheet of `ttl attention` for a dataset, with its `trials` and its `entry` of the selection.

    It is shown if its networks are those that the command would look at today. It shows single images:
    without `pictures`, `private` says so.
    """
    values = _values(folder / f"{ATTENTION}.json", folder / f"{ATTENTION}.png")
    if isinstance(values, Looked):
        return values
    used = [one["trial_id"] for one in values["strategies"].values()]
    if foreign := _foreign(ATTENTION, values, used, trials["trial_id"].to_list(), entry["data"]["revision"]):
        return foreign
    best, _ = best_trials(trials, entry, dataset=values["dataset"], backbone=values["backbone"])
    if set(used) != {row["trial_id"] for row in best.values()}:
        why = "is of other networks than the best of this sweep"
        return Looked(missing=f"What was looked at {why}; `ttl {ATTENTION}` looks again.")
    known: dict[str, Any] = {"notes": tuple(values["notes"])}
    if not pictures:
        return Looked(missing=private, **known)
    picture, width, height = sheet(folder / f"{ATTENTION}.png", widest)
    return Looked(picture=picture, width=width, height=height, alt=values["alt"], **known)


def _named(entry: Mapping[str, Any]) -> set[str]:
    """Return the trials whose metrics stand in a backbone's figure."""
    networks = [entry["whole"], *(layer["network"] for layer in entry["layers"])]
    return {one for network in networks if network for one in network["trial_ids"]}


def _stale(entry: Mapping[str, Any], trials: pl.DataFrame) -> str:
    """Return why a backbone's figure is not what these trials give now; nothing if it is."""
    backbone = entry["backbone"]
    try:
        best = best_whole(trials, backbone)
    except SearchError:
        return f"is of another sweep than this one, which has no whole network of {backbone} to look at"
    ours = beside(trials, best)
    # A cut is named by its block, or by the stage that ends with it.
    places = {layer[kind] for layer in entry["layers"] for kind in ("layer", "stage")}
    there = (pl.col("strategy") == "ttl") & pl.col("cut").is_in(list(places))
    done = ours.filter((pl.col("status") == COMPLETED) & (there | (pl.col("strategy") == "ftl")))
    shown = _named(entry)
    if lacking := set(done["trial_id"]) - shown:
        return f"lacks {len(lacking)} of this sweep's {done['trial_id'].n_unique()} trials of {backbone}"
    if best["trial_id"] != entry["finetuned"]["trial_id"] or shown - set(done["trial_id"]):
        return f"is of other networks of {backbone} than this sweep's"
    return ""


def _drawn(folder: Path, name: str) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """Return the figure in the page's own colours, and its rows, where its table and its code are here."""
    there = (folder / f"{SIMILARITY}.parquet").is_file()
    if not there:
        return "", ()
    table, description = read(folder)
    svg, rows = draw(table, description, name=name), summary(table, description)
    return Markup(svg), tuple(rows)


def _values(description: Path, picture: Path) -> Any:
    command = f"`ttl {description.stem}`"
    for path in (description, picture):
        if not path.is_file():
            return Looked(missing=f"Not looked at yet: {command} does it.")
    try:
        return json.loads(description.read_text(encoding="utf-8"))
    except ValueError as error:
        return Looked(missing=f"{description} is damaged ({error}); {command} makes it anew.")


def _foreign(
    what: str, values: Any, used: Collection[str], trials: Collection[str], revision: str
) -> Looked | None:
    if values["revision"] == revision and set(used) <= set(trials):
        return None
    return Looked(missing=f"What was looked at is of another sweep than this one; `ttl {what}` looks again.")

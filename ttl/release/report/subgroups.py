"""Both networks in each subgroup of the test split: sites, and years of examination.

The intervals are the gate's (`ttl.release.head_to_head`), so that a page and an evidence say the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ttl.evaluation.statistics import Interval
from ttl.release.gate_rule import GateRule
from ttl.release.head_to_head import HeadToHead, compare
from ttl.release.report.scores import Scored

KINDS = ("site", "year")
MOST = 30
"""Subgroups of one kind that are listed, the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """A subgroup: its patients, those of the rarest class, and the AUROC of both networks.

    `refused` says why there are no figures, where there are none.
    """

    kind: str
    value: str
    images: int
    patients: int
    fewest: int
    chosen: Interval | None = None
    reference: Interval | None = None
    difference: Interval | None = None
    refused: str = ""


def groups_of(samples: pl.DataFrame, ids: tuple[str, ...]) -> dict[str, NDArray[np.str_]]:
    """Return each test image's site and year of examination, by their ids; empty where not known."""
    known = pl.DataFrame({"sample_id": ids}).join(
        samples.select("sample_id", "site", pl.col("acquired_at").dt.year().cast(pl.String).alias("year")),
        on="sample_id",
        how="left",
        maintain_order="left",
    )
    return {kind: known[kind].fill_null("").to_numpy().astype(np.str_) for kind in KINDS}


def subgroups(
    tested: Scored, groups: Mapping[str, NDArray[np.str_]], rule: Mapping[str, Any]
) -> list[Subgroup]:
    """Return every subgroup of each kind that has several; `rule` is the selection's.

    One that has fewer patients of a class than the rule wants for a choice is listed without figures.
    """
    settings = GateRule(confidence=rule["confidence"], resamples=rule["resamples"])
    least = int(rule.get("patients", 10))
    every = HeadToHead(
        labels=tested.labels,
        patients=tested.patients,
        groups=groups,
        challenger=tested.chosen,
        threshold=tested.thresholds[0] if tested.binary and tested.thresholds else None,
        champion=tested.reference,
    )
    found = []
    for kind in KINDS:
        values, counts = np.unique(groups[kind], return_counts=True)
        if len(values) < 2:
            continue
        for place in np.argsort(-counts, kind="stable")[:MOST]:
            value = str(values[place])
            part = every.where(groups[kind] == value)
            found.append(_subgroup(kind, value or "not known", part, settings, least))
    return found


def _subgroup(kind: str, value: str, part: HeadToHead, settings: GateRule, least: int) -> Subgroup:
    fewest = part.fewest_patients
    known: dict[str, Any] = {
        "kind": kind,
        "value": value,
        "images": len(part.labels),
        "patients": len(np.unique(part.patients)),
        "fewest": fewest,
    }
    if fewest < least:
        return Subgroup(**known, refused=f"a class has {fewest} patients, and {least} are needed")
    (line,) = compare(settings, value, part, metrics=("auroc",))
    if line.challenger is None:
        return Subgroup(**known, refused="too few patients for an interval")
    return Subgroup(**known, chosen=line.challenger, reference=line.champion, difference=line.difference)

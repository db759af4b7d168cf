"""The model card: what whoever answers for a model's use must know about it, in Markdown."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from ttl.data.dataset import PackedDataset
from ttl.models.network import STRATEGIES
from ttl.release.description import Description
from ttl.units import percentage

METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "ece": "expected calibration error",
}
ABSENT = "–"
MINUS = "\N{MINUS SIGN}"
SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}


def write_card(
    selection: Mapping[str, Any],
    *,
    description: Description,
    dataset: PackedDataset,
    devices: Mapping[str, str],
) -> str:
    """Return the card of the model that `description` describes, chosen as `selection` says.

    `devices` says on what the latencies of `chosen` and `reference` were measured.
    """
    environment = Environment(
        loader=PackageLoader("ttl.release"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(interval=interval, percentage=percentage, count=count, cell=cell, whole=whole)
    environment.filters.update(megabytes=megabytes, millions=millions)
    chosen, reference = selection["chosen"], selection["reference"]
    figures = selection["figures"]
    return environment.get_template("card.md.j2").render(
        known=description,
        info=dataset.info,
        splits=SPLIT_TITLES,
        patients=selection["data"]["patients"],
        leaks=leaks(dataset.samples),
        patients_known=not _no_patient(dataset.samples).all(),
        selection=selection,
        chosen=chosen,
        reference=reference,
        same=chosen["trial_ids"] == reference["trial_ids"],
        compared=_find_candidate(selection),
        non_inferior=sum(bool(candidate["non_inferior"]) for candidate in selection["candidates"]),
        figures=figures,
        metrics={
            key: title for key, title in METRICS.items() if _is_known(figures["chosen"]["test"].get(key))
        },
        shifted=_is_below(figures["chosen"]["test"]["auroc"], figures["chosen"]["validation"]["auroc"]),
        strategies={name: strategy.title for name, strategy in STRATEGIES.items()},
        devices=devices,
        named=lambda labels: ", ".join(description.classes[label] for label in labels),
    )


def leaks(samples: pl.DataFrame) -> dict[str, int]:
    """Return how many patients, and how many distinct images, lie in more than one split."""
    known = samples.filter(~_no_patient(samples))
    return {
        name: table.group_by(column).agg(pl.col("split").n_unique()).filter(pl.col("split") > 1).height
        for name, table, column in (("patients", known, "patient_id"), ("images", samples, "sha256"))
    }


def interval(values: Mapping[str, float | None] | None, digits: int = 3) -> str:
    """Return an estimate and its interval, if it has one: `0.970 (0.958 to 0.981)`."""
    if values is None or not _is_known(values):
        return ABSENT
    value, low, high = (_number(values[key], digits) for key in ("value", "low", "high"))
    if values["low"] is None:
        return value
    return f"{value} ({low} to {high})"


def whole(values: Mapping[str, float]) -> str:
    """Return a share with its interval, out of a hundred: `97 (95 to 99)`."""
    return interval({key: 100 * values[key] for key in ("value", "low", "high")}, digits=0)


def count(value: float) -> str:
    """Return a whole number with its thousands set apart: `3,372,570`."""
    return f"{round(value):,}"


def millions(value: float) -> str:
    """Return a number in millions: `13.4 M`."""
    return f"{value / 1e6:,.{1 if value >= 1e6 else 3}f} M"


def megabytes(value: float) -> str:
    """Return a number of bytes in megabytes: `0.23 MB`."""
    return f"{value / 1e6:,.{1 if value >= 1e7 else 2}f} MB"


def cell(text: object) -> str:
    """Return a text that keeps to one line and one column of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _no_patient(samples: pl.DataFrame) -> pl.Series:
    """Return for each sample whether its patient is not known: `ttl.data.pack` names it after its image."""
    return samples["patient_id"].str.starts_with("image-").fill_null(True)


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", MINUS)


def _is_known(values: Mapping[str, float | None] | None) -> bool:
    value = values["value"] if values else None
    return value is not None and math.isfinite(value)


def _is_below(test: Mapping[str, float], validation: Mapping[str, float]) -> bool:
    """Return whether the whole interval on test lies below the one on validation."""
    return test["high"] < validation["low"]


def _find_candidate(selection: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the chosen model's comparison with the reference on validation data, if it was compared."""
    for candidate in selection["candidates"]:
        if candidate["trial_ids"] == selection["chosen"]["trial_ids"]:
            found: Mapping[str, Any] = candidate
            return found
    return None

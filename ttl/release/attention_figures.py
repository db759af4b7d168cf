"""What attention maps come to, in figures and sentences: attended areas, and whether weights matter."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl.evaluation.attention import UNCHANGED, Maps, Randomised
from ttl.evaluation.statistics import Weights, paired

REFERENCE = "ftl"

FEW = 16
"""A layer with fewer positions says little of where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A strategy's trial, its maps of the measured images, and what random weights leave of them."""

    row: Mapping[str, Any]
    layer: str
    maps: Maps
    cascade: list[Randomised]


def figures(measured: Mapping[str, Measured], patients: NDArray[np.str_]) -> dict[str, dict[str, Any]]:
    """Return the figures of each strategy; all have maps of the same images, of these patients [n].

    `area` is the mean share of the image above half of a map's maximum, `area_on_common_grid` the same of
    maps averaged to the coarsest grid among the strategies: a layer with fewer positions cannot attend to
    less than one of them. `less_ftl` are their differences from ftl's, paired, by bootstrap over patients.
    """
    grids = np.array([one.maps.grid for one in measured.values()])
    common = (int(grids[:, 0].min()), int(grids[:, 1].min()))
    areas = {
        name: {"area": one.maps.areas(), "area_on_common_grid": one.maps.coarsened(common).areas()}
        for name, one in measured.items()
    }
    return {
        name: {
            **{field: one.row[field] for field in ("trial_id", "cut", "source", "seed", "image_size")},
            **{field: one.row[field] for field in ("params", "val_auroc", "test_auroc", "threshold")},
            "layer": one.layer,
            "grid": list(one.maps.grid),
            "common_grid": list(common),
            "empty": int(one.maps.empty.sum()),
            **{kind: _mean(found) for kind, found in areas[name].items()},
            "less_ftl": {
                kind: _difference(found, areas[REFERENCE][kind], patients)
                for kind, found in areas[name].items()
                if name != REFERENCE and REFERENCE in areas
            },
            "rank_correlation": one.cascade[-1].correlation,
            "vanished": one.cascade[-1].vanished,
            "cascade": [dataclasses.asdict(part) for part in one.cascade],
            # Without a correlation nothing is known.
            "explains": None
            if math.isnan(one.cascade[-1].correlation)
            else one.cascade[-1].correlation < UNCHANGED,
        }
        for name, one in measured.items()
    }


def notes(values: Mapping[str, Any], *, asked: int) -> list[str]:
    """Return what a reader of the sheet has to know, in sentences."""
    found = []
    if values["synthetic"]:
        found.append("The images are synthetic: the maps say nothing of patients.")
    for name, one in values["strategies"].items():
        rows, columns = one["grid"]
        if rows * columns < FEW:
            says = (
                "a map cannot say" if rows * columns == 1 else f"with fewer than {FEW} a map says little of"
            )
            found.append(
                f"{name}: {one['layer']} has {rows}×{columns} positions at {one['image_size']} px, and "
                f"{says} where; larger images give more."
            )
        if rows * columns > 1 and one["explains"] is None:
            found.append(f"{name}: with random weights no map is left to compare with.")
        elif one["explains"] is False:
            found.append(
                f"{name}: with random weights the maps stay as they are (rank correlation "
                f"{one['rank_correlation']:.2f}, bound {values['unchanged_from']}): they show the image, "
                "and explain nothing of what was learnt."
            )
        if one["empty"]:
            found.append(
                f"{name}: {one['empty']} of {values['measured_images']} maps are empty: nothing in "
                f"{one['layer']} speaks for the class."
            )
    if len({tuple(one["grid"]) for one in values["strategies"].values()}) > 1:
        rows, columns = next(iter(values["strategies"].values()))["common_grid"]
        found.append(
            "The layers differ in their number of positions, and with fewer of them an area is coarser: "
            f"compare areas on the common {rows} × {columns} grid."
        )
    found += [f"{name} is not shown: {why}." for name, why in values["missing"].items()]
    kinds = [one["kind"] for one in values["samples"]]
    if asked >= 4:
        pair = {"ftl", "ttl"} <= set(values["strategies"])
        if pair and "disagreement" not in kinds:
            found.append("On no test image that is left do ftl and ttl disagree.")
        if "error" not in kinds:
            found.append("No strategy errs on any test image.")
    if len(kinds) < asked:
        found.append(f"{asked} images were asked for, and the test split has {len(kinds)}.")
    return found


def alt(values: Mapping[str, Any]) -> str:
    """Return what the sheet shows, for whoever does not see it."""
    target = values["target"] or "each image's own class"
    kinds = [one["kind"] for one in values["samples"]]
    counted = ", ".join(
        f"{kinds.count(kind)} {text}"
        for kind, text in (
            ("correct", "that all strategies classify correctly"),
            ("disagreement", "on which ftl and ttl disagree"),
            ("error", "confident errors"),
        )
        if kind in kinds
    )
    each = "; ".join(
        f"{name} ({one['cut']}, map of {one['layer']}, {one['grid'][0]} × {one['grid'][1]} positions): "
        f"{_text(one['area'])} of the image on average, {_text(one['area_on_common_grid'])} on the common "
        f"grid, rank correlation with random weights {_text(one['rank_correlation'])}"
        for name, one in values["strategies"].items()
    )
    return (
        f"{values['method']} maps for {target} of {values['backbone']} on {len(kinds)} test images of "
        f"{values['dataset']}: {counted}. One row an image, one column a strategy. Attended area over "
        f"{values['measured_images']} images: {each}."
    )


def plain(values: Any) -> Any:
    """Return values as JSON has them: what does not exist is None."""
    if isinstance(values, Mapping):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _mean(areas: NDArray[np.float64]) -> float:
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else math.nan


def _difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], patients: NDArray[np.str_]
) -> dict[str, float] | None:
    both = np.isfinite(ours) & np.isfinite(theirs)
    if not both.any():
        return None

    def mean(areas: NDArray[np.float64]) -> Any:
        def of(weights: Weights) -> Weights:
            return np.asarray(weights @ areas[both] / weights.sum(axis=1))

        return of

    return dataclasses.asdict(paired(mean(ours), mean(theirs), patients[both]))


def _text(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.2f}"

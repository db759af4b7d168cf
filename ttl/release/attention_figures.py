"""What attention maps come to, in figures and sentences: attended areas, and whether weights matter."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl.evaluation.attention import UNCHANGED, Maps, Randomised, by_chance
from ttl.evaluation.statistics import Weights, paired

REFERENCE = "ftl"

FEW = 16
"""A layer with fewer positions says little of where, and ranks of so few agree by chance."""


UNKNOWN = "unknown"


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
    less than one of them. `less_ftl` are their differences from ftl's, paired, by bootstrap over patients,
    over the `images` of which both have a map.
    `rank_correlation` and `absolute_rank_correlation` are means of its values, and of its magnitudes, with
    random weights throughout. `explains` is judged by the latter; it is None where nothing is known: if no
    map is left, or on fewer than `FEW` positions.
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
            "absolute_rank_correlation": one.cascade[-1].absolute,
            "vanished": one.cascade[-1].vanished,
            "cascade": [dataclasses.asdict(part) for part in one.cascade],
            "explains": _explains(one),
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
            chance = (
                "ranks of so few agree by chance (a magnitude of about "
                f"{by_chance(rows * columns):.2f}), so the check by random weights is not judged"
            )
            says = (
                "a map cannot say where"
                if rows * columns == 1
                else f"with fewer than {FEW} a map says little of where; {chance}"
            )
            found.append(
                f"{name}: {one['layer']} has {rows}×{columns} positions at {one['image_size']} px, and "
                f"{says}; larger images give more."
            )
        if rows * columns > 1 and _text(one["absolute_rank_correlation"]) == UNKNOWN:
            found.append(f"{name}: with random weights no map is left to compare with.")
        elif one["explains"] is False:
            found.append(
                f"{name}: with random weights the maps stay as they are, or turn into their opposites (mean "
                f"magnitude of the rank correlation {one['absolute_rank_correlation']:.2f}, bound "
                f"{values['unchanged_from']}; signed {_text(one['rank_correlation'])}): they show the image, "
                "and explain nothing of what was learnt."
            )
        gap = one["less_ftl"].get("area")
        if gap and gap["images"] < values["measured_images"]:
            found.append(
                f"{name}: the difference from {REFERENCE} is over the {gap['images']} of "
                f"{values['measured_images']} images of which both have a map."
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
        f"grid, rank correlation with random weights {_text(one['rank_correlation'])} (mean magnitude "
        f"{_text(one['absolute_rank_correlation'])})"
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


def _explains(one: Measured) -> bool | None:
    rows, columns = one.maps.grid
    left = one.cascade[-1].absolute
    return None if math.isnan(left) or rows * columns < FEW else left < UNCHANGED


def _mean(areas: NDArray[np.float64]) -> float:
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else math.nan


def _difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], patients: NDArray[np.str_]
) -> dict[str, float | int] | None:
    both = np.isfinite(ours) & np.isfinite(theirs)
    if not both.any():
        return None

    def mean(areas: NDArray[np.float64]) -> Any:
        def of(weights: Weights) -> Weights:
            return np.asarray(weights @ areas[both] / weights.sum(axis=1))

        return of

    gap = paired(mean(ours), mean(theirs), patients[both])
    return {**dataclasses.asdict(gap), "images": int(both.sum())}


def _text(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.2f}"

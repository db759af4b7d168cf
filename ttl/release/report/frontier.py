"""The figure of a metric against the number of parameters, and the front of the models worth having."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ttl.release import svg
from ttl.release.report.tables import KEYS, NAMES, Model, means, name_of
from ttl.units import magnitude


def frontier(
    trials: pl.DataFrame,
    *,
    metric: str,
    front: Sequence[Model],
    chosen: Model | None,
    reference: Model | None,
    floor: float | None,
    name: str,
) -> str:
    """Return the metric against parameters, on a log axis.

    `front` are the models that no smaller one beats on validation data. They, the chosen model and the
    reference are named; the others are faint. `floor` draws a line: the reference less the margin.
    """
    table = means(trials, metric)
    models = list(table.select(KEYS).iter_rows())
    tips: dict[str, str] = {}
    wanted: dict[Model, tuple[float, float]] = {}
    with svg.drawing(*svg.PANEL) as (figure, axes):
        axes.set_xscale("log")
        for index, row in enumerate(table.iter_rows(named=True)):
            model = tuple(row[key] for key in KEYS)
            named = model in {*front, chosen, reference}
            if named:
                wanted[model] = (row["params"], row["mean"])
            colour, shape = svg.mark(row["strategy"]).light, svg.mark(row["strategy"])
            spread = f" ± {row['deviation']:.3f}" if row["deviation"] is not None else ""
            tips[f"point-{index}"] = (
                f"{name_of(model, among=models)}: {NAMES.get(metric, metric)} "
                f"{row['mean']:.3f}{spread}, {magnitude(row['params'])} parameters"
            )
            if row["deviation"] is not None:
                low, high = row["mean"] - row["deviation"], row["mean"] + row["deviation"]
                axes.plot(
                    [row["params"]] * 2, [low, high], color=colour, alpha=0.55 if named else 0.25, lw=1.1
                )
            axes.plot(
                [row["params"]],
                [row["mean"]],
                marker=shape.marker,
                ms=shape.size + (1 if named else 0),
                color=colour,
                alpha=1.0 if named else 0.5,
                mec=svg.PAPER,
                mew=0.6,
                gid=f"point-{index}",
                zorder=4 if named else 3,
            )
        if metric == "val_auroc" and front:
            corners = sorted(wanted[model] for model in front if model in wanted)
            xs, ys = [x for x, _ in corners], [y for _, y in corners]
            axes.step(xs, ys, where="post", color=svg.INK, lw=1.1, zorder=2)
        if floor is not None:
            axes.axhline(floor, color=svg.CHOSEN, lw=1.1, ls=(0, (5, 3)), zorder=1)
        if chosen in wanted:
            x, y = wanted[chosen]
            axes.plot([x], [y], marker="o", ms=16, mfc="none", mec=svg.CHOSEN, mew=2, zorder=5)
        _parameter_axis(axes, table["params"].to_list())
        axes.set_ylabel(NAMES.get(metric, metric))
        axes.margins(x=0.1, y=0.14)
        labels = {
            point: (
                ("chosen: " if model == chosen else "") + name_of(model, among=models),
                svg.CHOSEN if model == chosen else svg.INK,
            )
            for model, point in sorted(wanted.items(), key=lambda item: item[0] not in (chosen, reference))
        }
        svg.put_labels(
            figure, axes, labels, avoid=[(p, m) for p, m in table.select("params", "mean").iter_rows()]
        )
        words = f"{NAMES.get(metric, metric)} against the number of parameters of {table.height} models"
        if chosen in wanted:
            words += f"; the chosen one, {name_of(chosen, among=models)}, has {wanted[chosen][1]:.3f}"
        return svg.finish(figure, name=name, label=words, tips=tips)


def _parameter_axis(axes: Any, params: Sequence[float]) -> None:
    """Write parameters as 100 k or 1 M, at enough places to read a value and few enough to fit."""
    decades = math.log10(max(params) / min(params)) if params and min(params) > 0 else 1.0
    steps = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.6 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=steps))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0f}" if value < 1e3 else _tick(value))
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters")


def _tick(value: float) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k"

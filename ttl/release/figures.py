"""The report's figures, each a pure function from frames to one `<svg>` element.

Every figure is one narrow panel, so that a page can set them side by side or, on a telephone, one under the
other. `trials` has the columns of `results/trials.parquet`, of one dataset; trials that are not completed,
or lack the metric, are left out. A model is known by the values of `KEYS`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ttl.release import svg
from ttl.search.results import ABLATIONS, FACTORS
from ttl.units import magnitude

Model = tuple[Any, ...]
"""The values of `KEYS`."""

KEYS = ["backbone", "source", "strategy", "cut", "recipe", *ABLATIONS]
NAMES = {"val_auroc": "validation AUROC", "test_auroc": "test AUROC"}
ORDER = ("ftl", "ttl", "tf", "lwft")
PANEL = (400.0, 320.0)
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A candidate's validation AUROC less the reference's, with its interval."""

    model: Model
    params: int
    value: float
    low: float
    high: float


def name_of(model: Model, *, among: Collection[Model] = ()) -> str:
    """Return a model's short name, with the factors of which `among` has several values."""
    known = dict(zip(KEYS, model, strict=True))
    short = known["strategy"] if known["strategy"] == "ftl" else f"{known['strategy']} {known['cut']}"
    more = [
        told(name, known[name])
        for place, name in enumerate(KEYS)
        if name in FACTORS and len({other[place] for other in among}) > 1
    ]
    return f"{short} ({', '.join(more)})" if more else short


def told(factor: str, value: Any) -> str:
    """Return a factor's value in words that say what it is of."""
    return f"{factor} {value:g}" if isinstance(value, float) else str(value)


def strategies_of(trials: pl.DataFrame) -> list[str]:
    """Return the strategies in the order in which they are shown: the reference first."""
    found = set(trials["strategy"].to_list())
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def means(trials: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Return one row a model: `mean`, `deviation` (null for one seed), `seeds` and `params`; by params."""
    usable = trials.filter((pl.col("status") == "completed") & pl.col(metric).is_finite())
    return (
        usable.group_by(KEYS)
        .agg(
            pl.col(metric).mean().alias("mean"),
            pl.col(metric).std().alias("deviation"),
            pl.len().alias("seeds"),
            pl.col("params").cast(pl.Float64).mean().alias("params"),
        )
        .sort("params", *KEYS)
    )


def cut_order(trials: pl.DataFrame) -> list[str]:
    """Return the names of the cuts from the bottom of the network to its top.

    `cut_index` counts the cuts of one granularity. Where stage and block cuts meet, the parameters of the
    truncated (or else slimmed) networks, which grow with the cut, put them in one order.
    """
    cuts = trials.filter(pl.col("strategy") != "ftl")
    if cuts["granularity"].n_unique() > 1:
        for strategy in ("ttl", "tf"):
            sized = cuts.filter((pl.col("strategy") == strategy) & pl.col("params").is_not_null())
            if set(sized["cut"].to_list()) == set(cuts["cut"].to_list()):
                return _first_seen(sized.sort("params", "granularity", "cut_index"))
    return _first_seen(cuts.sort("granularity", "cut_index", descending=[True, False]))


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
    with svg.drawing(*PANEL) as (figure, axes):
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


def by_cut(trials: pl.DataFrame, *, metric: str, name: str) -> str:
    """Return the metric against the cut, of one backbone and source: a line a strategy, FTL as a level.

    Seeds are faint points; bars and the band around FTL are one deviation over the seeds.
    """
    cuts = cut_order(trials)
    places = {cut: place for place, cut in enumerate(cuts)}
    table = means(trials, metric)
    others = [strategy for strategy in strategies_of(trials) if strategy != "ftl"]
    usable = trials.filter((pl.col("status") == "completed") & pl.col(metric).is_finite())
    with svg.drawing(*PANEL) as (figure, axes):
        for row in table.filter(pl.col("strategy") == "ftl").iter_rows(named=True):
            drawn = svg.mark("ftl")
            spread = row["deviation"] or 0.0
            axes.axhspan(row["mean"] - spread, row["mean"] + spread, color=drawn.light, alpha=0.14, lw=0)
            axes.axhline(row["mean"], color=drawn.light, ls=drawn.dash, lw=1.4)
        for index, strategy in enumerate(others):
            drawn = svg.mark(strategy)
            shift = (index - (len(others) - 1) / 2) * min(0.16, 0.5 / max(len(others), 1))
            seeds = usable.filter(pl.col("strategy") == strategy)
            axes.plot(
                [places[cut] + shift for cut in seeds["cut"]],
                seeds[metric].to_list(),
                ls="none",
                marker=drawn.marker,
                ms=3.2,
                color=drawn.light,
                alpha=0.4,
                mew=0,
            )
            rows = sorted(
                table.filter(pl.col("strategy") == strategy).iter_rows(named=True),
                key=lambda row: places[row["cut"]],
            )
            axes.errorbar(
                [places[row["cut"]] + shift for row in rows],
                [row["mean"] for row in rows],
                yerr=[row["deviation"] or 0.0 for row in rows],
                color=drawn.light,
                ls=drawn.dash,
                lw=1.6,
                elinewidth=1.0,
                marker=drawn.marker,
                ms=drawn.size,
                mec=svg.PAPER,
                mew=0.6,
            )
        crowded = len(cuts) > 6 or sum(len(cut) for cut in cuts) > 44
        axes.set_xticks(range(len(cuts)), cuts, rotation=90 if crowded else 0)
        axes.set_xlim(-0.5, max(len(cuts) - 0.5, 0.5))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("cut, from the bottom of the network to its top")
        axes.set_ylabel(NAMES.get(metric, metric))
        words = f"{NAMES.get(metric, metric)} against the cut, for {', '.join(strategies_of(trials))}"
        return svg.finish(figure, name=name, label=words)


def curves(
    history: pl.DataFrame,
    *,
    shades: Mapping[str, float],
    limits: tuple[float, float] | None,
    epochs: int,
    name: str,
) -> str:
    """Return validation AUROC per epoch of one backbone, source and strategy: a line a cut, mean over seeds.

    `history` has the columns cut, seed, epoch and val_auroc. `shades` gives each cut its place between 0
    (bottom) and 1 (top) on the sequential scale. A line ends where its first seed ends. `limits` and
    `epochs` make panels comparable.
    """
    seeds = history.group_by("cut", "seed").agg(pl.col("epoch").max().alias("last"))
    shared = seeds.group_by("cut").agg(pl.col("last").min())
    lines = (
        history.join(shared, on="cut")
        .filter((pl.col("epoch") <= pl.col("last")) & pl.col("val_auroc").is_finite())
        .group_by("cut", "epoch")
        .agg(pl.col("val_auroc").mean())
        .sort("cut", "epoch")
    )
    with svg.drawing(300.0, 240.0) as (figure, axes):
        for cut in sorted(lines["cut"].unique().to_list(), key=lambda cut: shades.get(cut, 1.0)):
            line = lines.filter(pl.col("cut") == cut)
            colour = svg.shade(shades[cut])[0] if cut in shades else svg.mark("ftl").light
            few = line.height <= 12
            axes.plot(
                line["epoch"].to_list(),
                line["val_auroc"].to_list(),
                color=colour,
                lw=1.7,
                marker="o" if few else "",
                ms=3.2,
                mew=0,
            )
        if limits:
            axes.set_ylim(*limits)
        axes.set_xlim(-0.03 * epochs + 1, max(epochs, 2) * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation AUROC")
        words = f"validation AUROC per epoch for {lines['cut'].n_unique()} networks"
        return svg.finish(figure, name=name, label=words)


def differences(
    rows: Sequence[Difference], *, margin: float, chosen: Model | None, reference: Model | None, name: str
) -> str:
    """Return each candidate's difference from the reference with its interval, the smallest model on top.

    Whoever's interval stays right of the dashed line, the margin, is non-inferior.
    """
    ordered = sorted(rows, key=lambda row: (-row.params, row.model))
    models = [row.model for row in rows]
    left = max(min(row.low for row in rows), -12 * margin if margin > 0 else -1.0)
    with svg.drawing(460.0, 74.0 + 21.0 * len(rows)) as (figure, axes):
        axes.axvline(0.0, color=svg.MUTED, lw=1.0)
        axes.axvline(-margin, color=svg.CHOSEN, lw=1.2, ls=(0, (5, 3)))
        for place, row in enumerate(ordered):
            drawn = svg.mark(row.model[2])
            axes.plot([row.low, row.high], [place, place], color=drawn.light, lw=2.0, solid_capstyle="round")
            ring = {"mec": svg.CHOSEN, "mew": 2.0} if row.model == chosen else {"mec": svg.PAPER, "mew": 0.6}
            axes.plot(
                [row.value], [place], marker=drawn.marker, ms=drawn.size + 1.5, color=drawn.light, **ring
            )
        right = max(*(row.high for row in rows), 0.0)
        span = right - left
        axes.set_xlim(min(left, -margin) - 0.05 * span, right + 0.05 * span)
        labels = [f"{name_of(row.model, among=models)}, {magnitude(row.params)}" for row in ordered]
        axes.set_yticks(range(len(ordered)), labels)
        for tick, row in zip(axes.get_yticklabels(), ordered, strict=True):
            if row.model == chosen:
                tick.set(color=svg.CHOSEN, weight="bold")
        axes.set_ylim(-0.7, len(ordered) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", MINUS)))
        known = f" of {name_of(reference, among=models)}" if reference else ""
        axes.set_xlabel(f"validation AUROC less that{known}")
        words = f"difference in validation AUROC of {len(rows)} candidates, with intervals; margin {margin:g}"
        return svg.finish(figure, name=name, label=words)


def _first_seen(table: pl.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["cut"].to_list()))


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

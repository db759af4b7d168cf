"""The figure of a metric against the cut."""

import polars as pl

from ttl.release import svg
from ttl.release.report.tables import NAMES, cut_order, means, strategies_of


def by_cut(trials: pl.DataFrame, *, metric: str, name: str) -> str:
    """Return the metric against the cut, of one backbone and source: a line a strategy, FTL as a level.

    Seeds are faint points; bars and the band around FTL are one deviation over the seeds.
    """
    cuts = cut_order(trials)
    places = {cut: place for place, cut in enumerate(cuts)}
    table = means(trials, metric)
    others = [strategy for strategy in strategies_of(trials) if strategy != "ftl"]
    usable = trials.filter((pl.col("status") == "completed") & pl.col(metric).is_finite())
    with svg.drawing(*svg.PANEL) as (figure, axes):
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

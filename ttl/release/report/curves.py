"""The figure of training: validation AUROC by epoch."""

from collections.abc import Mapping

import polars as pl
from matplotlib.ticker import MaxNLocator

from ttl.release import svg


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

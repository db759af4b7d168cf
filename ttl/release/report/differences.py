"""The figure of each candidate's difference from the reference, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, MaxNLocator

from ttl.release import svg
from ttl.release.report.tables import Model, name_of
from ttl.release.report.words import MINUS
from ttl.units import magnitude


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A candidate's validation AUROC less the reference's, with its interval."""

    model: Model
    params: int
    value: float
    low: float
    high: float


def differences(
    rows: Sequence[Difference], *, margin: float, chosen: Model | None, reference: Model | None, name: str
) -> str:
    """Return each candidate's difference from the reference with its interval, the smallest model on top.

    Whoever's interval stays right of the dashed line, the margin, is non-inferior. The axis ends at twelve
    margins below zero; an arrow there stands for an interval, or a whole row, that lies further left.
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
        edge = min(left, -margin) - 0.05 * span
        axes.set_xlim(edge, right + 0.05 * span)
        beyond = [
            (place, svg.mark(row.model[2]).light) for place, row in enumerate(ordered) if row.low < edge
        ]
        for place, colour in beyond:
            axes.plot([edge], [place], marker="<", ms=6.0, color=colour, clip_on=False)
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

"""The figures of every operating point: the ROC curve, and precision against sensitivity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from ttl.release import svg
from ttl.release.report.roles import Line

MOST_POINTS = 300
"""A curve of more is thinned: no eye sees the difference, and a page has its limit."""

Mask = NDArray[np.bool_]


def roc(found: Mask, lines: Sequence[Line], *, name: str, title: str) -> str:
    """Return sensitivity against 1 − specificity of a class; `found` [n] says which images have it."""
    with svg.drawing(*svg.PANEL) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=svg.MUTED, lw=0.8)
        for line in lines:
            false, true, _ = roc_curve(found, line.scores)
            _draw(axes, line, false, true)
            if line.threshold is not None:
                said = line.scores >= line.threshold
                _ring(axes, said[~found].mean(), said[found].mean())
        axes.set_title(svg.literal(title), loc="left", fontsize=11)
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")
        axes.legend(loc="lower right", frameon=False)
        return svg.finish(figure, name=name, label=f"ROC curve of {title}")


def precision_recall(found: Mask, lines: Sequence[Line], *, name: str, title: str) -> str:
    """Return precision against sensitivity of a class; the level line is the class's share of the images."""
    with svg.drawing(*svg.PANEL) as (figure, axes):
        axes.axhline(found.mean(), color=svg.MUTED, lw=0.8)
        for line in lines:
            precision, recall, _ = precision_recall_curve(found, line.scores)
            _draw(axes, line, recall, precision, drawstyle="steps-post")
            said = line.scores >= (line.threshold if line.threshold is not None else np.inf)
            if said.any():
                _ring(axes, said[found].mean(), found[said].mean())
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(svg.literal(title), loc="left", fontsize=11)
        axes.set_xlabel("sensitivity")
        axes.set_ylabel("precision")
        axes.legend(loc="lower left", frameon=False)
        return svg.finish(figure, name=name, label=f"Precision against sensitivity for {title}")


def _draw(axes: Any, line: Line, x: NDArray[np.float64], y: NDArray[np.float64], **how: Any) -> None:
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    look = line.look
    axes.plot(x[keep], y[keep], color=look.colour, ls=look.dash, lw=1.8, label=line.name, **how)


def _ring(axes: Any, x: float, y: float) -> None:
    axes.plot([x], [y], marker="o", ms=10, mfc="none", mec=svg.CHOSEN, mew=2, zorder=5)

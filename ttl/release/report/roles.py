"""How the chosen network and the reference look wherever both are drawn: by colour, dash and marker."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl.release import svg
from ttl.release.report.scores import Scored

NAMES = ("selected", "whole network")
"""What the page calls the chosen network and the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a role is drawn."""

    colour: str
    dash: str
    marker: str


CHOSEN = Look(colour=svg.CHOSEN, dash="-", marker="o")
REFERENCE = Look(colour=svg.mark("ftl").light, dash="--", marker="s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A network's scores of one class [n], and the threshold at which it decides, if there is one."""

    name: str
    look: Look
    scores: NDArray[np.float64]
    threshold: float | None = None


def lines(tested: Scored, number: int, which: NDArray[np.bool_]) -> list[Line]:
    """Return the scores of one class by both networks, of some images; by one, where it is both."""
    threshold = None
    if tested.thresholds and (tested.multilabel or tested.binary):
        threshold = tested.thresholds[number if tested.multilabel else 0]
    chosen, reference = (scores[which, number] for scores in (tested.chosen, tested.reference))
    ours = Line(name=NAMES[0], look=CHOSEN, scores=chosen, threshold=threshold)
    return [ours] if tested.same else [Line(name=NAMES[1], look=REFERENCE, scores=reference), ours]

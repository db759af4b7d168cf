"""The most confident mistakes of the chosen network: where to look first for what it does not know."""

from dataclasses import dataclass

import numpy as np

from ttl.release.report.scores import Scored

EACH = 6
"""Mistakes that are shown of each class."""

MOST = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image, by its place in the test split: what it is, what it was taken for, with which probability."""

    place: int
    sample_id: str
    actual: str
    predicted: str
    probability: float


def mistakes(tested: Scored, *, each: int = EACH, most: int = MOST) -> list[Mistake]:
    """Return the mistakes at the network's thresholds, the most confident ones of each class first.

    Confident is who gives the wrong answer a high probability. Of several labels at once a mistake is one of
    a label whose answer is known.
    """
    rows = _of_labels(tested, each) if tested.multilabel else _of_classes(tested, each)
    return sorted(rows, key=lambda one: (-one.probability, one.place))[:most] if len(rows) > most else rows


def _of_classes(tested: Scored, each: int) -> list[Mistake]:
    predicted = tested.predicted
    given = tested.chosen[np.arange(len(predicted)), predicted]
    rows = []
    for number, name in enumerate(tested.classes):
        wrong = np.flatnonzero((tested.labels == number) & (predicted != number))
        for place in wrong[np.argsort(-given[wrong], kind="stable")][:each]:
            rows.append(_mistake(tested, int(place), name, tested.classes[predicted[place]], given[place]))
    return rows


def _of_labels(tested: Scored, each: int) -> list[Mistake]:
    predicted, rows = tested.predicted, []
    for number, name in enumerate(tested.classes):
        present, known = tested.found(number)
        given = np.where(predicted[:, number] == 1, tested.chosen[:, number], 1 - tested.chosen[:, number])
        for actual in (True, False):
            wrong = np.flatnonzero(known & (present == actual) & (predicted[:, number] != actual))
            for place in wrong[np.argsort(-given[wrong], kind="stable")][: each // 2]:
                words = (name, f"no {name}") if actual else (f"no {name}", name)
                rows.append(_mistake(tested, int(place), *words, given[place]))
    return rows


def _mistake(tested: Scored, place: int, actual: str, predicted: str, given: float) -> Mistake:
    return Mistake(
        place=place,
        sample_id=tested.samples[place],
        actual=actual,
        predicted=predicted,
        probability=float(given),
    )

"""What two models say of a test set, and how they compare on it: metrics, intervals, differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttl.errors import SearchError
from ttl.evaluation.labels import scorable
from ttl.evaluation.metrics import Labels, Probabilities
from ttl.evaluation.scoring import Threshold
from ttl.evaluation.statistics import Interval, interval, metrics_at, paired
from ttl.release.gate_rule import GateRule
from ttl.search.scores import patients_by_label

TestName = Literal["frozen", "rolling"]
TESTS: tuple[TestName, ...] = ("frozen", "rolling")

SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "ece")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadToHead:
    """A test set, and what both models say of it.

    `labels` [n], or [n, classes] of images with several, `patients` [n], `groups` [n] by kind of subgroup,
    probabilities [n, classes] with each model's threshold; the champion's are None where there is none.
    """

    labels: Labels
    patients: NDArray[np.str_]
    groups: Mapping[str, NDArray[np.str_]]
    challenger: Probabilities
    threshold: Threshold
    champion: Probabilities | None = None
    champion_threshold: Threshold = None

    @property
    def fewest_patients(self) -> int:
        """The number of patients of the class that has the fewest.

        Of several labels that can be scored: of those who have one, or who lack one.
        """
        if self.labels.ndim == 2:
            by_label = patients_by_label(self.labels, self.patients)[:, scorable(self.labels)]
            return int(by_label.min()) if by_label.size else 0
        counts = [
            len(np.unique(self.patients[self.labels == one])) for one in range(self.challenger.shape[1])
        ]
        return min(counts)

    def where(self, mask: NDArray[np.bool_]) -> "HeadToHead":
        """Return the images for which the mask [n] holds."""
        return HeadToHead(
            labels=self.labels[mask],
            patients=self.patients[mask],
            groups={name: values[mask] for name, values in self.groups.items()},
            challenger=self.challenger[mask],
            threshold=self.threshold,
            champion=None if self.champion is None else self.champion[mask],
            champion_threshold=self.champion_threshold,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line of the evidence: both models' metric on a set of images, and their difference, if judged."""

    where: str
    metric: str
    images: int
    patients: int
    champion: Interval | None
    challenger: Interval | None
    difference: Interval | None = None


def compare(
    rule: GateRule, where: str, scores: HeadToHead, *, metrics: Sequence[str] = SHOWN
) -> list[Comparison]:
    """Return the comparisons of both models by each metric, as far as there are patients for intervals."""
    classes = scores.challenger.shape[1]
    ours = metrics_at(scores.threshold, classes)
    theirs = metrics_at(scores.champion_threshold, classes)
    settings: dict[str, Any] = {"confidence": rule.confidence, "resamples": rule.resamples}
    found = []
    for metric in metrics:
        if metric not in ours:
            continue
        champion = challenger = difference = None
        try:
            challenger = interval(ours[metric], scores.labels, scores.challenger, scores.patients, **settings)
            if scores.champion is not None:
                champion = interval(
                    theirs[metric], scores.labels, scores.champion, scores.patients, **settings
                )
                difference = paired(
                    partial(ours[metric], scores.labels, scores.challenger),
                    partial(theirs[metric], scores.labels, scores.champion),
                    scores.patients,
                    **settings,
                )
        except SearchError:
            # Too few patients for an interval: the line stands without, and the rule's minimum sizes say so.
            pass
        found.append(
            Comparison(
                where=where,
                metric=metric,
                images=len(scores.labels),
                patients=len(np.unique(scores.patients)),
                champion=champion,
                challenger=challenger,
                difference=difference,
            )
        )
    return found


def together(tests: Sequence[HeadToHead]) -> HeadToHead:
    """Return several test sets as one, all or none with a champion's scores."""
    first = tests[0]
    champions = [one.champion for one in tests if one.champion is not None]
    assert len(champions) in (0, len(tests))
    return HeadToHead(
        labels=np.concatenate([one.labels for one in tests]),
        patients=np.concatenate([one.patients for one in tests]),
        groups={kind: np.concatenate([one.groups[kind] for one in tests]) for kind in first.groups},
        challenger=np.concatenate([one.challenger for one in tests]),
        threshold=first.threshold,
        champion=np.concatenate(champions) if champions else None,
        champion_threshold=first.champion_threshold,
    )

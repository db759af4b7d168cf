"""Steps shared out into packs, one pack a job, so that the slots end at about the same time."""

import heapq
import math
from collections.abc import Mapping, Sequence

from ttl.training.trial import Step

LARGEST = 64
"""Steps in a pack: more than this, and another slot that has become free could not help."""


def pack(steps: Sequence[Step], weights: Mapping[str, float], slots: int) -> list[list[Step]]:
    """Share steps out into packs, longest first, each next step to the pack with the least work.

    A launch costs as much as a short trial, so there is one pack a slot where that can be. A pack holds
    trials of one dataset and one number of processes. `weights` is the work expected of each trial by its
    id, in any unit. Packs and the steps in each come heaviest first; the same input gives the same packs.
    (Longest processing time first: Graham 1969, at most 4/3 of the best possible.)
    """
    groups: dict[tuple[str, int], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.trial.dataset, step.trial.processes), []).append(step)

    def work(some: Sequence[Step]) -> float:
        return sum(weights[step.trial.trial_id] for step in some)

    share = work(steps) / slots
    packs = []
    for group in groups.values():
        wanted = round(work(group) / share) if share else slots
        count = max(min(wanted, len(group)), math.ceil(len(group) / LARGEST), 1)
        packs += _balance(group, weights, count)
    return sorted(packs, key=lambda pack: -work(pack))


def _balance(steps: Sequence[Step], weights: Mapping[str, float], count: int) -> list[list[Step]]:
    packs: list[list[Step]] = [[] for _ in range(count)]
    loads = [(0.0, index) for index in range(count)]
    for step in sorted(steps, key=lambda step: -weights[step.trial.trial_id]):
        load, index = heapq.heappop(loads)
        packs[index].append(step)
        if len(packs[index]) < LARGEST:
            heapq.heappush(loads, (load + weights[step.trial.trial_id], index))
    return [pack for pack in packs if pack]

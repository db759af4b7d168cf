"""Trials shared out into packs, one pack a job, so that the slots end at about the same time."""

import heapq
import math
from collections.abc import Mapping, Sequence

from ttl.training.trial import Trial

LARGEST = 64
"""Trials in a pack: more than this, and another slot that has become free could not help."""


def pack(trials: Sequence[Trial], weights: Mapping[str, float], slots: int) -> list[list[Trial]]:
    """Share trials out into packs, longest first, each next trial to the pack with the least work.

    A launch costs as much as a short trial, so there is one pack a slot where that can be. A pack holds
    trials of one dataset and one number of processes. `weights` is the work expected of each trial by its
    id, in any unit. Packs and the trials in each come heaviest first; the same input gives the same packs.
    (Longest processing time first: Graham 1969, at most 4/3 of the best possible.)
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.dataset, trial.processes), []).append(trial)
    share = sum(weights[trial.trial_id] for trial in trials) / slots
    packs = []
    for group in groups.values():
        work = sum(weights[trial.trial_id] for trial in group)
        wanted = round(work / share) if share else slots
        count = max(min(wanted, len(group)), math.ceil(len(group) / LARGEST), 1)
        packs += _balance(group, weights, count)
    return sorted(packs, key=lambda pack: -sum(weights[trial.trial_id] for trial in pack))


def _balance(trials: Sequence[Trial], weights: Mapping[str, float], count: int) -> list[list[Trial]]:
    packs: list[list[Trial]] = [[] for _ in range(count)]
    loads = [(0.0, index) for index in range(count)]
    for trial in sorted(trials, key=lambda trial: -weights[trial.trial_id]):
        load, index = heapq.heappop(loads)
        packs[index].append(trial)
        if len(packs[index]) < LARGEST:
            heapq.heappush(loads, (load + weights[trial.trial_id], index))
    return [pack for pack in packs if pack]

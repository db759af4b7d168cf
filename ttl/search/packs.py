"""Steps shared out into packs, which workers take one at a time, so that all end at about the same time."""

from collections.abc import Mapping, Sequence

from ttl.training.trial import Step

LARGEST = 64
"""Steps in a pack: a pack is one task of the scheduler's, and one line of its history."""


def pack(steps: Sequence[Step], weights: Mapping[str, float], slots: int) -> list[list[Step]]:
    """Share steps out into packs, heaviest steps first; each pack has a share of the work that is left.

    A pack holds half of what each slot would get of the work left, and at least one step: large ones first,
    which cost little to hand out, and single light steps at the end, which leave no slot idle for long. A
    pack holds trials of one dataset and one number of processes. `weights` is the work expected of each
    trial by its id, in any unit. The same input gives the same packs.
    (Guided self-scheduling: Polychronopoulos & Kuck, IEEE Transactions on Computers 1987.)
    """
    ordered = sorted(steps, key=lambda step: -weights[step.trial.trial_id])
    left = sum(weights[step.trial.trial_id] for step in ordered)
    packs: list[list[Step]] = []
    while ordered:
        first, work = ordered[0], 0.0
        some: list[Step] = []
        for step in ordered:
            weight = weights[step.trial.trial_id]
            if some and (work + weight > left / (2 * slots) or len(some) == LARGEST):
                break
            if _kind(step) == _kind(first):
                some.append(step)
                work += weight
        taken = {id(step) for step in some}
        ordered = [step for step in ordered if id(step) not in taken]
        left -= work
        packs.append(some)
    return packs


def _kind(step: Step) -> tuple[str, int]:
    return step.trial.dataset, step.trial.processes

"""A sweep around a model that is known to do: its cut, and those next to it."""

from typing import Any

from ttl.models.cuts import GRANULARITIES, list_cuts
from ttl.models.names import FULL, Strategy


def around(backbone: str, strategy: Strategy, cut: str, *, reach: int) -> dict[str, Any]:
    """Return settings of a sweep: a model's strategy, `reach` cuts up and down, and the whole network.

    The whole network stays in it: without it there is no reference to be non-inferior to. Around the whole
    network itself there is nothing to narrow: an empty mapping leaves the sweep as `params.yaml` has it.
    """
    if cut == FULL:
        return {}
    for granularity in GRANULARITIES:
        known = [one.name for one in list_cuts(backbone, granularity)]
        if cut in known:
            place = known.index(cut)
            near = known[max(0, place - reach) : place + reach + 1]
            return {
                "backbones": [backbone],
                "strategies": ["ftl", strategy],
                "granularity": granularity,
                "planner": "exhaustive",
                "cuts": near,
            }
    return {}

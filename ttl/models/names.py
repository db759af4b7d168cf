"""The words of a network's plan. Without torch, so that tables and plans need not import it."""

from typing import Literal

Strategy = Literal["ftl", "ttl", "lwft", "tf"]
"""Names of strategies; `ttl.models.network` defines what each does."""

Granularity = Literal["stage", "block"]

Head = Literal["pooled", "flattened"]
"""What makes logits of the features at the cut: a linear layer over their mean, or over all positions."""

FULL = "full"
"""The cut of a network that is not cut."""

"""The words of a network's plan. Without torch, so that tables and plans need not import it."""

from typing import Literal

Strategy = Literal["ftl", "ttl", "lwft", "tf"]
"""Names of strategies; `ttl.models.network` defines what each does."""

Granularity = Literal["stage", "block"]

FULL = "full"
"""The cut of a network that is not cut."""

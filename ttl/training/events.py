"""What a job tells whoever launched it, as lines on its standard output."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

PREFIX = "@ttl "

Cause = Literal["", "memory", "storage", "death"]
"""Why a trial could not go on: its device's memory, a full disk, a killed process."""

ENDS = ("completed", "stopped", "failed")
"""Kinds of event after which a trial has its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened to a trial. `text` is the reason of a failure, or a message.

    `cause` says of a failure whether it may pass: it is empty for one that will come again.
    """

    kind: Literal["started", "epoch", "completed", "stopped", "failed", "message"]
    trial_id: str
    epoch: int = 0
    epochs: int = 0
    val_auroc: float | None = None
    text: str = ""
    cause: Cause = ""


def encode(event: Event) -> str:
    """Return the event as a line, without its end."""
    return PREFIX + json.dumps(asdict(event))


def decode(line: str) -> Event | None:
    """Return the event of a line; None for a line that something else has printed."""
    return Event(**json.loads(line.removeprefix(PREFIX))) if line.startswith(PREFIX) else None

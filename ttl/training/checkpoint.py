"""The state of a trial between two epochs, on disk: each file is named by its epoch and its content."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl.files import sha256
from ttl.training.trial import Trial

if TYPE_CHECKING:
    import torch

# Whoever launches trainers handles these files too, and needs no torch for it.
# ruff: noqa: PLC0415

logger = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints kept of a trial: should the newest be damaged, one epoch is lost and not all."""

_NAME = re.compile(r"checkpoint-(\d{6})-([0-9a-f]{16})\.pt")


def save(folder: Path, trial: Trial, epoch: int, state: dict[str, Any]) -> Path:
    """Write the state after an epoch; older ones but the last go."""
    import torch

    aside = folder / "checkpoint.new"
    torch.save({"trial_id": trial.trial_id, **state}, aside)
    path = folder / f"checkpoint-{epoch:06d}-{_digest(aside)}.pt"
    aside.replace(path)
    for old in found(folder)[KEPT:]:
        old.unlink()
    return path


def load(folder: Path, trial: Trial, device: "torch.device") -> dict[str, Any] | None:
    """Return the newest state that is whole; None if there is none. Each damaged one is a line in the log."""
    import torch

    for path in found(folder):
        try:
            if not whole(path):
                raise ValueError("its content is not what its name says")
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            if state["trial_id"] != trial.trial_id:
                raise ValueError(f"it is of trial {state['trial_id']}")
        except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways, all mended alike
            # In its place another may be made, or brought.
            path.unlink(missing_ok=True)
            logger.warning(
                "the checkpoint of epoch %d is damaged (%s); it goes on from the one before, or starts again",
                epoch_of(path.name), error,
            )  # fmt: skip
        else:
            return state
    return None


def found(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    names = [path.name for path in folder.glob("checkpoint-*.pt") if epoch_of(path.name) >= 0]
    return [folder / name for name in sorted(names, key=epoch_of, reverse=True)]


def epoch_of(name: str) -> int:
    """Return the epoch after which the checkpoint of this name was written; -1 if it is no checkpoint's."""
    matched = _NAME.fullmatch(name)
    return int(matched[1]) if matched else -1


def whole(path: Path) -> bool:
    """Return whether the file's content is what its name says."""
    matched = _NAME.fullmatch(path.name)
    return matched is not None and _digest(path) == matched[2]


def _digest(path: Path) -> str:
    return sha256(path)[:16]

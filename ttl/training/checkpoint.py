"""The state of a trial between two epochs, on disk."""

import logging
from pathlib import Path
from typing import Any

import torch

from ttl.training.trial import Trial

logger = logging.getLogger(__name__)


def save(path: Path, trial: Trial, state: dict[str, Any]) -> None:
    """Write a state; the file is always a whole one, the last or the one before."""
    aside = path.with_suffix(".new")
    torch.save({"trial_id": trial.trial_id, **state}, aside)
    aside.replace(path)


def load(path: Path, trial: Trial, device: torch.device) -> dict[str, Any] | None:
    """Return the state that was saved; None, and a line in the log, if there is none that can be used."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state["trial_id"] != trial.trial_id:
            raise ValueError(f"it is of trial {state['trial_id']}")
    except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways, all mended alike
        logger.warning("%s: the checkpoint is damaged (%s); training starts again", trial.label, error)
        return None
    return state

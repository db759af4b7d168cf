"""Backbones by name, whichever library has them, and the places their pretrained weights can come from."""

import hashlib
import logging
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttl.errors import ModelError
from ttl.models.family import Family, Preprocessing
from ttl.models.timm_family import TimmFamily
from ttl.models.video import VideoFamily
from ttl.models.weights import MIRROR_VARIABLE, PACKAGED, RANDOM, locate, published

logger = logging.getLogger(__name__)

FAMILIES: tuple[Family, ...] = (VideoFamily(), TimmFamily())
"""The libraries that are asked for a name, in this order."""


def family_of(backbone: str) -> Family:
    """Return the library that has a backbone. Raises `ModelError` for a name that none knows."""
    found = next((family for family in FAMILIES if family.has(backbone)), None)
    if found is None:
        similar = [name for family in FAMILIES for name in family.similar(backbone)][:5]
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        raise ModelError(f"timm has no model called {backbone!r}, nor has torchvision{hint}")
    return found


def create(backbone: str, image_size: int | None = None, **options: Any) -> nn.Module:
    """Return the backbone with random weights and its original head; its library's seeded initialisation.

    Raises `ModelError` for a name that no library knows or that has no feature points to cut at.
    """
    return family_of(backbone).create(backbone, image_size, **options)


@lru_cache
def preprocessing(backbone: str) -> Preprocessing:
    """Return how the backbone's library prepares its images."""
    return family_of(backbone).preprocessing(backbone)


def load_backbone(backbone: str, source: str, image_size: int) -> nn.Module:
    """Return the whole backbone with the weights of `source`: `imagenet`, `kinetics`, `random` or a file.

    A file is safetensors or a weights-only checkpoint in the naming of the backbone's library.
    """
    place = locate(backbone, source)
    if place.kind == "random":
        return create(backbone, image_size)
    if place.path is None:
        return _from_hub(backbone, image_size)
    if place.kind == "package":
        return _from_package(backbone, place.path, image_size)
    return _from_file(backbone, place.path, image_size)


def weights_sha256(backbone: str, source: str) -> str:
    """Return the SHA-256 of a backbone's weights: of their file, or of the tensors that a hub gives.

    Nothing for `random`, which follows the trial's seed.
    """
    place = locate(backbone, source)
    if place.kind == "random":
        return ""
    if place.path is None:
        return _hub_sha256(backbone)
    with place.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def _hub_sha256(backbone: str) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(_from_hub(backbone).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_file(backbone: str, path: Path, image_size: int) -> nn.Module:
    try:
        return family_of(backbone).pretrained(backbone, image_size, path)
    except Exception as error:
        raise ModelError(f"weights file {path} does not fit {backbone}: {error}") from error


def _from_hub(backbone: str, image_size: int | None = None) -> nn.Module:
    family = family_of(backbone)
    try:
        return family.pretrained(backbone, image_size)
    except Exception as error:
        raise ModelError(
            f"the {published(backbone)} weights of {backbone} cannot be fetched from {family.title}'s hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            f"Three other ways: give a weights file as the source; name a folder or bucket that holds "
            f"{backbone}.safetensors in {MIRROR_VARIABLE}; use a backbone whose weights come as a package "
            f"({', '.join(sorted(PACKAGED))}), or source {RANDOM!r} to start from nothing"
        ) from error


def _from_package(backbone: str, path: Path, image_size: int) -> nn.Module:
    model = create(backbone, image_size)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    expected = model.state_dict()
    # The checkpoint is of the same network under other names: both list the tensors in the same order.
    state = OrderedDict(zip(expected, checkpoint.values(), strict=True))
    wrong = [name for name, tensor in state.items() if tensor.shape != expected[name].shape]
    if wrong:
        raise ModelError(f"the packaged weights {path.name} do not fit {backbone} at {wrong[0]}")
    model.load_state_dict(state)
    return model

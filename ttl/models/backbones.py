"""Backbones by their timm name, and the four places their pretrained weights can come from."""

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from ttl.errors import ModelError
from ttl.models.weights import MIRROR_VARIABLE, PACKAGED, RANDOM, locate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a backbone wants its images: per-channel mean and deviation of pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


def create(backbone: str, image_size: int | None = None, **options: Any) -> nn.Module:
    """Return the backbone with random weights and its original head; timm's seeded initialisation.

    Raises `ModelError` for a name that timm does not know or that has no feature points to cut at.
    """
    try:
        config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
        if config is None:
            raise ModelError(_unknown(backbone))
        if image_size is not None and config.fixed_input_size:
            options["img_size"] = image_size
        model = cast("nn.Module", timm.create_model(backbone, pretrained=False, **options))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"{backbone} cannot be built at image size {image_size}: {error}") from error
    if not getattr(model, "feature_info", None) or not hasattr(model, "prune_intermediate_layers"):
        raise ModelError(f"{backbone} has no feature_info in timm, so it cannot be cut; try one that has")
    return model


def _unknown(backbone: str) -> str:
    similar = timm.list_models(f"*{backbone[:8]}*")[:5]
    hint = f"; similar names: {', '.join(similar)}" if similar else ""
    return f"timm has no model called {backbone!r}{hint}"


@lru_cache
def preprocessing(backbone: str) -> Preprocessing:
    """Return timm's data configuration of the backbone."""
    config = resolve_model_data_config(create(backbone))
    return Preprocessing(
        mean=tuple(config["mean"]), std=tuple(config["std"]), interpolation=config["interpolation"]
    )


def load_backbone(backbone: str, source: str, image_size: int) -> nn.Module:
    """Return the whole backbone with the weights of `source`: `imagenet`, `random` or a file.

    A file is safetensors or a weights-only checkpoint in timm's naming.
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
    """Return the SHA-256 of a backbone's weights: of their file, or of the tensors that timm's hub gives.

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
        return _pretrained(backbone, image_size, pretrained_cfg_overlay={"file": str(path)})
    except Exception as error:
        raise ModelError(f"weights file {path} does not fit {backbone}: {error}") from error


def _from_hub(backbone: str, image_size: int | None = None) -> nn.Module:
    try:
        return _pretrained(backbone, image_size)
    except Exception as error:
        raise ModelError(
            f"the ImageNet weights of {backbone} cannot be fetched from timm's hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            f"Three other ways: give a weights file as the source; name a folder or bucket that holds "
            f"{backbone}.safetensors in {MIRROR_VARIABLE}; use a backbone whose weights come as a package "
            f"({', '.join(sorted(PACKAGED))}), or source {RANDOM!r} to start from nothing"
        ) from error


def _pretrained(backbone: str, image_size: int | None, **options: Any) -> nn.Module:
    if image_size is not None and timm.get_pretrained_cfg(backbone).fixed_input_size:
        options["img_size"] = image_size
    return cast("nn.Module", timm.create_model(backbone, pretrained=True, **options))


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

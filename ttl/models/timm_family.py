"""The networks of timm, which take images."""

import difflib
from pathlib import Path
from typing import Any, cast

import timm
from timm.data import resolve_model_data_config
from torch import nn

from ttl.errors import ModelError
from ttl.models.family import Preprocessing


class TimmFamily:
    """Every network of timm that has feature points to cut at."""

    title = "timm"

    def has(self, backbone: str) -> bool:
        """Return whether timm has a network of this name."""
        return bool(timm.is_model(backbone)) and timm.get_pretrained_cfg(backbone) is not None

    def similar(self, backbone: str) -> list[str]:
        """Return up to five of timm's names that read alike."""
        return difflib.get_close_matches(backbone, timm.list_models(), n=5)

    def create(self, backbone: str, image_size: int | None = None, **options: Any) -> nn.Module:
        """Return the network with timm's seeded initialisation."""
        try:
            model = cast(
                "nn.Module",
                timm.create_model(backbone, pretrained=False, **self._sized(backbone, image_size), **options),
            )
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ModelError(f"{backbone} cannot be built at image size {image_size}: {error}") from error
        if not getattr(model, "feature_info", None) or not hasattr(model, "prune_intermediate_layers"):
            raise ModelError(f"{backbone} has no feature_info in timm, so it cannot be cut; try one that has")
        return model

    def pretrained(self, backbone: str, image_size: int | None, file: Path | None = None) -> nn.Module:
        """Return the network with a file's weights, in timm's naming, or with those of timm's hub."""
        overlay = {} if file is None else {"pretrained_cfg_overlay": {"file": str(file)}}
        return cast(
            "nn.Module",
            timm.create_model(backbone, pretrained=True, **overlay, **self._sized(backbone, image_size)),
        )

    def preprocessing(self, backbone: str) -> Preprocessing:
        """Return timm's data configuration of the network."""
        config = resolve_model_data_config(self.create(backbone))
        return Preprocessing(
            mean=tuple(config["mean"]), std=tuple(config["std"]), interpolation=config["interpolation"]
        )

    def native_size(self, backbone: str) -> int | None:
        """Return the input size of a network of fixed size, such as a ViT."""
        config: Any = timm.get_pretrained_cfg(backbone)
        return int(config.input_size[-1]) if config.fixed_input_size else None

    def _sized(self, backbone: str, image_size: int | None) -> dict[str, int]:
        fixed = self.native_size(backbone) is not None
        return {"img_size": image_size} if fixed and image_size is not None else {}

"""How a trial is trained: every number that changes its result, under one name."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ttl.data.fields import convert
from ttl.errors import ParamsError
from ttl.training.identity import later

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["plateau", "one-cycle"]
Criterion = Literal["val_loss", "val_auroc"]
Precision = Literal["no", "bf16", "fp16"]

SCHEDULES: dict[Schedule, set[str]] = {
    "plateau": {"plateau_patience", "plateau_factor", "min_lr"},
    "one-cycle": {"warmup"},
}
"""The settings that belong to one schedule alone."""

SGD_RATE = 10.0
"""Plain gradients want larger steps than Adam's normalised ones: `with_optimizer` multiplies by this.

Fast and paper become 1e-2 and 1e-3, with momentum 0.9: inside the grid, 1e-4 to 1e-1, from which Kornblith et
al. (CVPR 2019) choose for finetuning by SGD.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training schedule.

    `batch_size` is the global batch: with two processes each works on half of it.
    `crop_scale` is the smallest share of the image's area, or the volume's, that a random resized crop keeps;
    1 crops nothing. Volumes are flipped along all three axes.
    `resize` is the side, in multiples of the image size, to which validation images are resized before
    the centre crop (256/224 in the paper).
    `criterion` chooses the epoch whose weights are kept, on validation data.
    `compile` has the network compiled by `torch.compile`, which takes a minute or so a trial.
    `SCHEDULES` says which settings belong to one schedule alone. `momentum` is SGD's, and stays as it is; a
    one-cycle schedule moves Adam's.
    """

    name: str
    epochs: int
    optimizer: Optimizer
    lr: float
    schedule: Schedule
    criterion: Criterion
    batch_size: int = 64
    weight_decay: float = 0.0
    warmup: float = 0.3
    plateau_patience: int = 5
    plateau_factor: float = 0.5
    min_lr: float = 1e-6
    crop_scale: float = 0.6
    resize: float = 1.0
    flip: bool = True
    class_weights: bool = True
    precision: Precision = "no"
    compile: bool = False
    momentum: float = later(0.9)

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for field, low in (("epochs", 1), ("batch_size", 2), ("plateau_patience", 0)):
            if getattr(self, field) < low:
                raise ParamsError(
                    f"recipe {self.name}: {field} is {getattr(self, field)}; it must be at least {low}"
                )
        for field in ("lr", "min_lr"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ParamsError(f"recipe {self.name}: {field} is {value}; it must be a positive number")
        for field in ("crop_scale", "warmup", "plateau_factor"):
            if not 0 < getattr(self, field) <= 1:
                raise ParamsError(
                    f"recipe {self.name}: {field} is {getattr(self, field)}; it must be over 0, at most 1"
                )
        if not 0 <= self.momentum < 1:
            raise ParamsError(
                f"recipe {self.name}: momentum is {self.momentum}; it must be from 0 to under 1"
            )
        if self.resize < 1:
            raise ParamsError(f"recipe {self.name}: resize is {self.resize}; it must be at least 1")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fast",
            epochs=6,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.01,
            schedule="one-cycle",
            criterion="val_auroc",
        ),
        Recipe(
            name="paper",
            epochs=200,
            optimizer="adam",
            lr=1e-4,
            schedule="plateau",
            criterion="val_loss",
            crop_scale=0.08,
            resize=256 / 224,
        ),
    )
}


def make_recipe(setting: str | dict[str, Any]) -> Recipe:
    """Return the recipe that `params.yaml` asks for: a name, or `{base: NAME, field: value, …}`.

    A changed recipe says in its name what was changed, `fast(epochs=3)`, so that tables stay truthful.
    """
    changes = dict(setting) if isinstance(setting, dict) else {"base": setting}
    base = changes.pop("base", "fast")
    if base not in RECIPES:
        raise ParamsError(f"no recipe is called {base!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[base]
    hints = typing.get_type_hints(Recipe)
    for field, value in changes.items():
        if field == "name" or field not in hints:
            raise ParamsError(
                f"a recipe has no setting {field!r}; it has: {', '.join(sorted(set(hints) - {'name'}))}"
            )
        changes[field] = convert(value, hints[field], f"recipe setting {field}")
    schedule = changes.get("schedule", recipe.schedule)
    for other, settings in SCHEDULES.items():
        if other != schedule and (idle := sorted(settings & set(changes))):
            raise ParamsError(f"recipe setting {idle[0]} belongs to the schedule {other}, not to {schedule}")
    if "momentum" in changes and (used := changes.get("optimizer", recipe.optimizer)) != "sgd":
        raise ParamsError(f"recipe setting momentum belongs to the optimizer sgd, not to {used}")
    return _changed(recipe, changes)


def with_optimizer(recipe: Recipe, optimizer: Optimizer) -> Recipe:
    """Return the recipe with another optimizer, its learning rate brought to that one's scale.

    The name says both. A recipe that has this optimizer stays as it is.
    """
    if optimizer == recipe.optimizer:
        return recipe
    scale = {"sgd": SGD_RATE}
    lr = recipe.lr * scale.get(optimizer, 1.0) / scale.get(recipe.optimizer, 1.0)
    momentum = recipe.momentum if optimizer == "sgd" else 0.9
    return _changed(recipe, {"optimizer": optimizer, "lr": float(f"{lr:.6g}"), "momentum": momentum})


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with these settings, under a name that says what differs from its base."""
    base = RECIPES[recipe.name.partition("(")[0]]
    changed = dataclasses.replace(recipe, **changes)
    differing = {
        field.name: getattr(changed, field.name)
        for field in dataclasses.fields(Recipe)
        if field.name != "name" and getattr(changed, field.name) != getattr(base, field.name)
    }
    if not differing:
        return base
    described = ",".join(f"{field}={value}" for field, value in sorted(differing.items()))
    return dataclasses.replace(changed, name=f"{base.name}({described})")

"""Where a backbone can be cut, and the cutting itself."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from torch import nn

from ttl.errors import ModelError
from ttl.models.backbones import create, family_of
from ttl.models.names import Granularity
from ttl.models.order import trace

GRANULARITIES: tuple[Granularity, ...] = ("stage", "block")

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
QUARTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A place to cut, named by the last module kept.

    `index` counts the cuts of its granularity from the bottom. `channels` is the features' width there.
    `whole` marks the last cut of a backbone with nothing but its head above: a network truncated or
    slimmed there is the whole network.
    """

    name: str
    index: int
    granularity: Granularity
    channels: int
    whole: bool = False


def list_cuts(backbone: str, granularity: Granularity) -> tuple[Cut, ...]:
    """Return the backbone's cuts from the bottom to the top.

    Stage cuts are its library's feature points and their siblings of the same kind. Block cuts are the stem,
    where there is a feature point, and every block. A network without stages, such as a ViT, has a
    stage cut at each quarter of its blocks.
    """
    stages, blocks, channels, whole = _layout(backbone)
    names = stages if granularity == "stage" else blocks
    return tuple(
        Cut(name=name, index=index, granularity=granularity, channels=channels[name], whole=name in whole)
        for index, name in enumerate(names)
    )


def resolve(backbone: str, name: str) -> str:
    """Return the full module name of a cut given as such or by its ending, `denseblock3`.

    A module that lies between stages, such as DenseNet's `transition3`, is a cut too when named.
    """
    stages, blocks, channels, _ = _layout(backbone)
    names = list(dict.fromkeys([*stages, *blocks, *channels]))
    matches = [known for known in names if known == name] or [n for n in names if n.endswith("." + name)]
    if len(matches) != 1:
        raise ModelError(
            f"{backbone} has no cut {name!r}; its stage cuts are {', '.join(stages)}; "
            f"`ttl cuts {backbone} --granularity block` lists the block cuts"
        )
    return matches[0]


@lru_cache
def _layout(backbone: str) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int], frozenset[str]]:
    """Return names of stage cuts, names of block cuts, the width at each, and the cuts that are whole."""
    model = create(backbone)
    modules = dict(model.named_modules())
    runs = trace(model, family_of(backbone).native_size(backbone) or 64)
    points = feature_points(model)
    containers = [name for name in points if _blocks(name, modules[name])]
    if containers:
        parent, first = _parent(containers[0]), runs[containers[0]].start
        kinds = {type(modules[name]) for name in containers}
        siblings = [_join(parent, child) for child, _ in modules[parent].named_children()]
        later = [name for name in siblings if name in runs and runs[name].start >= first]
        stages = [name for name in later if type(modules[name]) in kinds and _blocks(name, modules[name])]
        stem = [name for name in points if runs[name].end < first]
        blocks = stem + [block for stage in stages for block in _blocks(stage, modules[stage])]
        between = [name for name in later if name not in stages and runs[name].start < runs[stages[-1]].start]
    else:
        blocks = points
        stages = [points[round(len(points) * (n + 1) / QUARTERS) - 1] for n in range(QUARTERS)]
        between = []
    channels = {name: runs[name].channels for name in [*stages, *blocks, *between]}
    end = runs[stages[-1]].end
    weighted = [
        name
        for name, run in runs.items()
        if run.start > end and any(p.ndim > 1 for p in modules[name].parameters(recurse=False))
    ]
    classifier = {name for name, module in modules.items() if module is _classifier(model)}
    whole = frozenset() if set(weighted) - classifier else frozenset({stages[-1], blocks[-1]})
    return tuple(stages), tuple(blocks), channels, whole


def truncate(model: nn.Module, cut: str, num_classes: int, image_size: int) -> None:
    """Remove what lies above the cut, and put a new head there: average pooling, then a linear layer.

    `model` is a whole backbone; it is changed in place. It prunes itself to the next feature point; what
    that keeps above the cut is sliced off.
    """
    points = feature_points(model)
    runs = trace(model, image_size)
    index = next((i for i, point in enumerate(points) if runs[point].end >= runs[cut].end), len(points) - 1)
    cast("Any", model).prune_intermediate_layers([index], prune_norm=False, prune_head=True)
    _slice(model, cut)
    _new_head(model, runs[cut].channels, num_classes)


def replace_head(model: nn.Module, num_classes: int) -> None:
    """Put the new head on a whole backbone: average pooling, then a linear layer."""
    cast("Any", model).reset_classifier(num_classes, "avg")


def feature_points(model: nn.Module) -> list[str]:
    """Return the names of a backbone's feature points, bottom to top."""
    info: Any = model.feature_info
    return [point["module"] for point in (info.get_dicts() if hasattr(info, "get_dicts") else info)]


def _new_head(model: Any, channels: int, num_classes: int) -> None:
    model.num_features = model.head_hidden_size = channels
    head = getattr(model, "head", None)
    if head is not None and hasattr(head, "in_features") and not isinstance(head, nn.Linear):
        head.in_features = head.num_features = channels
    model.reset_classifier(num_classes, "avg")


def _slice(model: nn.Module, cut: str) -> None:
    path = cut.split(".")
    for depth in range(len(path)):
        parent_name, child = ".".join(path[:depth]), path[depth]
        parent = model.get_submodule(parent_name)
        if not isinstance(parent, CONTAINERS):
            continue
        names = [name for name, _ in parent.named_children()]
        for name in names[names.index(child) + 1 :]:
            del parent._modules[name]


def _blocks(name: str, module: nn.Module) -> list[str]:
    """Return the names of a stage's blocks; none if the module is not a stage.

    A container of plain layers is no stage: a stem is one.
    """
    if isinstance(module, CONTAINERS) and any(list(child.children()) for child in module.children()):
        return [_join(name, child) for child, _ in module.named_children()]
    inner = getattr(module, "blocks", None)
    if isinstance(inner, CONTAINERS):
        return [f"{name}.blocks.{child}" for child, _ in inner.named_children()]
    return []


def _classifier(model: Any) -> nn.Module | None:
    classifier = model.get_classifier()
    return classifier if isinstance(classifier, nn.Module) else None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child

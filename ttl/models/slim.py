"""Half the width above a cut: the network of TransFusion (Raghu et al., NeurIPS 2019).

The dependency graph of torch-pruning finds which weights share each channel, for any network of
convolutions. Where a residual stream crosses the cut, a pointwise projection carries it from the full
width to the half.
"""

import math
from typing import Any, cast

import torch_pruning as tp
from torch import nn

from ttl.errors import ModelError
from ttl.models.backbones import create
from ttl.models.cuts import replace_head
from ttl.models.order import above, blank, is_of_volumes, trace
from ttl.models.video import SWIN_HEADS, VideoSwin

FACTOR = 2

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
LAYERS = (*CONVOLUTIONS, nn.Linear)


def slim(backbone: str, cut: str, num_classes: int, image_size: int) -> tuple[nn.Module, list[str]]:
    """Return a randomly initialised backbone with half the width above the cut, and the upper modules' names.

    Every layer above the cut has half its output channels; the head is sized to match.
    """
    model = create(backbone, image_size)
    replace_head(model, num_classes)
    if isinstance(model, VideoSwin):
        _slim_swin(model, backbone, cut, num_classes, image_size)
    elif hasattr(model, "blocks") and hasattr(model, "embed_dim") and hasattr(model, "pos_embed"):
        _slim_transformer(model, backbone, cut, num_classes, image_size)
    else:
        _slim_convolutional(model, cut, num_classes, image_size)
    upper = above(model, cut, image_size)
    for name in upper:
        _initialise(model.get_submodule(name))
    return model, upper


def _slim_convolutional(model: nn.Module, cut: str, num_classes: int, image_size: int) -> None:
    # Torch-pruning follows gradients' graph: every weight must ask for one, and no layer may be in place.
    groups = _groups(model, cut, image_size)
    if any(crosses for _, crosses in groups):
        _insert_projection(model, cut, image_size)
        groups = _groups(model, cut, image_size)
    crossing = [group for group, crosses in groups if crosses]
    if crossing:
        raise ModelError(f"the layers above {cut} share channels with those below: {crossing[0]}")
    names = {id(module): name for name, module in model.named_modules()}
    done: set[str] = set()
    for group, _ in groups:
        root = group[0].dep.target.module
        members = {names[id(item.dep.target.module)] for item in group if _sets_width(item)}
        if members & done:
            continue
        done |= members
        convolves = isinstance(root, CONVOLUTIONS)
        channels = root.out_channels if convolves else root.out_features
        kept = channels // FACTOR
        graph = _graph(model, image_size)
        prune = tp.prune_conv_out_channels if convolves else tp.prune_linear_out_channels
        if convolves and root.groups == channels and channels > 1:
            prune = tp.prune_depthwise_conv_out_channels
        graph.get_pruning_group(root, prune, idxs=list(range(kept, channels))).prune()


def _graph(model: nn.Module, image_size: int) -> Any:
    model.eval()
    return tp.DependencyGraph().build_dependency(
        model, example_inputs=blank(model, image_size), verbose=False
    )


def _sets_width(item: Any) -> bool:
    module = item.dep.target.module
    return isinstance(module, LAYERS) and item.dep.handler.__name__.endswith("out_channels")


def _groups(model: nn.Module, cut: str, image_size: int) -> list[tuple[Any, bool]]:
    """Return the groups of layers above the cut that share output channels, and whether they cross it."""
    upper = set(above(model, cut, image_size))
    names = {id(module): name for name, module in model.named_modules()}
    classifier = cast("Any", model).get_classifier()
    graph = _graph(model, image_size)
    found = []
    for group in graph.get_all_groups(ignored_layers=[classifier], root_module_types=list(LAYERS)):
        sources = [names.get(id(item.dep.target.module), "") for item in group if _sets_width(item)]
        if any(name in upper for name in sources):
            found.append((group, any(name not in upper for name in sources)))
    return found


def _insert_projection(model: nn.Module, cut: str, image_size: int) -> None:
    runs = trace(model, image_size)
    following = _next_block(model, cut, runs)
    parent_name, _, child = following.rpartition(".")
    channels = runs[cut].channels
    parent = model.get_submodule(parent_name)
    block = parent.get_submodule(child)
    convolution = nn.Conv3d if is_of_volumes(model) else nn.Conv2d
    parent._modules[child] = nn.Sequential(convolution(channels, channels, 1, bias=False), block)


def _next_block(model: nn.Module, cut: str, runs: dict[str, Any]) -> str:
    end = runs[cut].end
    later = [name for name, run in runs.items() if run.start > end and name.count(".") <= cut.count(".")]
    if not later:
        raise ModelError(f"nothing lies above {cut}, so nothing can be slimmed there")
    name = min(later, key=lambda name: runs[name].start)
    return name


def _slim_transformer(model: Any, backbone: str, cut: str, num_classes: int, image_size: int) -> None:
    width, heads = model.embed_dim, model.blocks[0].attn.num_heads
    narrow: Any = create(backbone, image_size, embed_dim=width // FACTOR, num_heads=max(1, heads // FACTOR))
    replace_head(narrow, num_classes)
    index = int(cut.rpartition(".")[2]) + 1
    for position in range(index, len(model.blocks)):
        model.blocks[position] = narrow.blocks[position]
    model.blocks[index] = nn.Sequential(nn.Linear(width, width // FACTOR), model.blocks[index])
    for name in ("norm", "fc_norm", "head"):
        setattr(model, name, getattr(narrow, name))


def _slim_swin(model: VideoSwin, backbone: str, cut: str, num_classes: int, image_size: int) -> None:
    heads = [max(1, number // FACTOR) for number in SWIN_HEADS]
    narrow: Any = create(backbone, embed_dim=model.embed_dim // FACTOR, num_heads=heads)
    replace_head(narrow, num_classes)
    runs = trace(model, image_size)
    following, width = _next_block(model, cut, runs), runs[cut].channels
    stage, *block = (int(place) for place in cut.split(".")[1:])
    for index in range(stage + 1, len(model.features)):
        model.features[index] = narrow.features[index]
    if block:
        kept, new = list(model.features[stage].children()), list(narrow.features[stage].children())
        model.features[stage] = nn.Sequential(*kept[: block[0] + 1], *new[block[0] + 1 :])
    parent, _, child = following.rpartition(".")
    projected = nn.Sequential(nn.Linear(width, width // FACTOR), model.get_submodule(following))
    model.get_submodule(parent)._modules[child] = projected
    for name in ("norm", "head"):
        setattr(model, name, getattr(narrow, name))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, CONVOLUTIONS):
        # He et al., ICCV 2015, by fan-out; torch's own function takes no account of groups.
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)

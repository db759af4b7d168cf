"""The head without pooling: every position of the features has weights of its own."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ttl.errors import ModelError
from ttl.models.order import evaluating


class FlattenedHead(nn.Module):
    """A linear layer over features flattened: [n, c, h, w], or tokens [n, t, c], become logits [n, classes].

    The first `skip` tokens, a class token among them, are not features of a position, and stand aside as they
    do from pooling. So a pooled head is one of these, with equal weights at all positions.
    """

    def __init__(self, features: int, num_classes: int, skip: int = 0) -> None:
        super().__init__()
        self.skip = skip
        self.linear = nn.Linear(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits [n, classes]."""
        logits: Tensor = self.linear(features[:, self.skip :].flatten(1))
        return logits


def flatten_head(model: nn.Module, num_classes: int, image_size: int) -> None:
    """Put a flattened head in the place of a timm network's pooled one, sized for images of this size."""
    net: Any = model
    classifier = net.get_classifier()
    name = next((name for name, module in model.named_modules() if module is classifier), None)
    if name is None:
        raise ModelError(f"{type(model).__name__} has no classifier that can be replaced by a flattened head")
    net.reset_classifier(0, "")
    device = next(model.parameters()).device
    with evaluating(model):
        features = cast("Tensor", model(torch.zeros(1, 3, image_size, image_size, device=device)))
    if features.ndim < 3:
        raise ModelError(f"{type(model).__name__} pools its features where no head can keep it from that")
    skip = int(getattr(net, "num_prefix_tokens", 0)) if features.ndim == 3 else 0
    model.set_submodule(name, FlattenedHead(features[0, skip:].numel(), num_classes, skip))

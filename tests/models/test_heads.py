"""The head without pooling, for convolutions and tokens, in every strategy."""

import numpy as np
import onnxruntime
import pytest
import torch

from ttl.errors import ModelError
from ttl.models.cost import cost, forward_macs
from ttl.models.heads import FlattenedHead, flatten_head
from ttl.models.network import NetworkSpec, build_network
from ttl.models.profile import head_size
from ttl.release.onnx import write_onnx

SIZE, CLASSES = 64, 3

# Features at the cut, by strategy, at 64 pixels: channels × positions.
FEATURES = {
    ("resnet18", "ftl", "full"): 512 * 2 * 2,
    ("resnet18", "ttl", "layer2"): 128 * 8 * 8,
    ("resnet18", "lwft", "layer2"): 512 * 2 * 2,
    ("resnet18", "tf", "layer2"): 256 * 2 * 2,
    # 16 patches of 16 pixels; the class token stands aside.
    ("vit_tiny_patch16_224", "ftl", "full"): 192 * 16,
    ("vit_tiny_patch16_224", "ttl", "blocks.5"): 192 * 16,
    ("vit_tiny_patch16_224", "tf", "blocks.5"): 96 * 16,
}


def network(backbone, strategy, cut, head):
    spec = NetworkSpec(
        backbone=backbone, strategy=strategy, cut=cut, num_classes=CLASSES, image_size=SIZE, source="random",
        head=head,
    )  # fmt: skip
    return build_network(spec)


@pytest.mark.parametrize(("case", "features"), FEATURES.items(), ids=str)
def test_it_has_a_weight_for_every_position(case, features):
    pooled, flattened = (network(*case, head) for head in ("pooled", "flattened"))
    head = flattened.net.get_classifier()
    assert head.linear.weight.shape == (CLASSES, features)
    channels = pooled.net.get_classifier().in_features
    more = CLASSES * (features - channels)
    counted = [sum(p.numel() for p in one.parameters()) for one in (pooled, flattened)]
    assert counted[1] - counted[0] == more
    assert forward_macs(flattened, SIZE) - forward_macs(pooled, SIZE) == more
    assert head_size(*case, CLASSES, SIZE) == CLASSES * (features + 1)
    # What was frozen stays so, and the head learns.
    assert flattened.frozen == pooled.frozen
    assert all(parameter.requires_grad for parameter in head.parameters())
    # What is below the head is as it was.
    state = pooled.net.state_dict()
    for name, value in flattened.net.state_dict().items():
        if "linear" not in name:
            assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("backbone", "cut"),
    [("resnet18", "layer3"), ("efficientnet_lite0", "blocks.2"), ("vit_tiny_patch16_224", "blocks.2")],
)
def test_a_pooled_head_is_one_with_equal_weights_everywhere(backbone, cut):
    pooled, flattened = (network(backbone, "ttl", cut, head).eval() for head in ("pooled", "flattened"))
    ours, theirs = flattened.net.get_classifier().linear, pooled.net.get_classifier()
    positions = ours.in_features // theirs.in_features
    with torch.no_grad():
        spread = theirs.weight / positions
        # Tokens come position by position, maps channel by channel.
        spread = spread.repeat(1, positions) if "vit" in backbone else spread.repeat_interleave(positions, 1)
        ours.weight.copy_(spread)
        ours.bias.copy_(theirs.bias)
        images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        images = images.to(memory_format=torch.channels_last)
        assert torch.allclose(flattened(images), pooled(images), atol=1e-4)


def test_it_is_written_as_onnx(tmp_path):
    net = network("resnet18", "ttl", "layer1", "flattened").net.eval()
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    write_onnx(net, images, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    with torch.no_grad():
        expected = net(images).numpy()
    assert np.allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-4)


def test_its_cost_is_counted():
    found = cost(network("resnet18", "ttl", "layer1", "flattened"), SIZE)
    assert found.params - cost(network("resnet18", "ttl", "layer1", "pooled"), SIZE).params == 3 * 64 * 255


def test_a_network_whose_classifier_is_hidden_is_an_error():
    class Odd(torch.nn.Module):
        def get_classifier(self):
            return None

    with pytest.raises(ModelError, match="Odd has no classifier that can be replaced"):
        flatten_head(Odd(), 2, 8)
    assert FlattenedHead(6, 2, skip=1)(torch.zeros(5, 3, 3)).shape == (5, 2)

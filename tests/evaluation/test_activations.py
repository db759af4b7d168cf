"""Features at the cuts of every family, and two networks' features side by side."""

import numpy as np
import pytest
import torch
from torch import nn

from ttl.errors import DataError
from ttl.evaluation.activations import Layer, list_layers, samples, stream, tapped
from ttl.evaluation.similarity import linear_cka, svcca
from ttl.models.backbones import create
from ttl.models.cuts import list_cuts
from ttl.models.network import NetworkSpec, build_network
from ttl.models.order import evaluating

FAMILIES = {
    # backbone: (stages with their layers, the layers that a test taps)
    "resnet18": ({"stem": 1, "layer1": 2, "layer2": 2, "layer3": 2, "layer4": 2}, ["layer2.0"]),
    "densenet121": (
        {"stem": 1} | {f"features.denseblock{n + 1}": count for n, count in enumerate((6, 12, 24, 16))},
        ["features.denseblock1.denselayer3"],
    ),
    "efficientnet_lite0": (
        {f"blocks.{n}": count for n, count in enumerate((1, 2, 2, 3, 3, 4, 1))},
        ["blocks.3.2"],
    ),
    "convnext_atto": ({f"stages.{n}": count for n, count in enumerate((2, 2, 6, 2))}, ["stages.2.blocks.1"]),
    "vit_tiny_patch16_224": ({f"blocks.{n}": 3 for n in (2, 5, 8, 11)}, ["blocks.4"]),
}
each_family = pytest.mark.parametrize("backbone", FAMILIES)


def images(n=2, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def seeded(backbone, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(backbone, 64).eval()


def taken(model, layers, batch):
    found = {}
    with evaluating(model), tapped(model, layers, found.__setitem__):
        model(batch)
    return found


def test_positions_are_samples_and_channels_are_features():
    maps = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert samples(maps, channels_last=False)[1 * 20 + 2 * 5 + 3].tolist() == maps[1, :, 2, 3].tolist()
    assert samples(maps, channels_last=True)[1 * 12 + 2 * 4 + 3].tolist() == maps[1, 2, 3].tolist()
    volumes = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    found = samples(volumes, channels_last=False)
    assert found.shape == (2 * 4 * 5 * 6, 3)
    assert found[1 * 120 + 3 * 30 + 4 * 6 + 5].tolist() == volumes[1, :, 3, 4, 5].tolist()
    tokens = torch.arange(2 * 7 * 3).reshape(2, 7, 3)
    assert samples(tokens, channels_last=False)[7 + 4].tolist() == tokens[1, 4].tolist()
    vectors = torch.arange(6).reshape(2, 3)
    assert samples(vectors, channels_last=False).tolist() == vectors.tolist()


@each_family
def test_layers_are_all_places_to_cut_once_each(backbone):
    layers, stages = list_layers(backbone), FAMILIES[backbone][0]
    counted = {stage: sum(layer.stage == stage for layer in layers) for stage in stages}
    assert counted == stages
    assert sum(stages.values()) == len(layers)
    assert [layer.index for layer in layers] == list(range(len(layers)))
    cuts = [cut for granularity in ("block", "stage") for cut in list_cuts(backbone, granularity)]
    assert {name for layer in layers for name in layer.cuts} == {cut.name for cut in cuts}
    assert sum(len(layer.cuts) for layer in layers) == len({cut.name for cut in cuts})


@each_family
def test_a_stages_end_is_its_last_block(backbone):
    model, doubled = seeded(backbone), [one.cuts for one in list_layers(backbone) if len(one.cuts) > 1]
    assert len(doubled) == (0 if backbone.startswith("vit") else len(list_cuts(backbone, "stage")))
    found = taken(model, [name for cuts in doubled for name in cuts], images())
    for block, stage in doubled:
        torch.testing.assert_close(found[block], found[stage], rtol=0, atol=0)


@each_family
def test_samples_are_what_the_network_truncated_there_pools(backbone, tmp_path):
    whole = seeded(backbone)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    for layer in FAMILIES[backbone][1]:
        spec = NetworkSpec(
            backbone=backbone, strategy="ttl", cut=layer, num_classes=2, image_size=64,
            source=str(tmp_path / "w.pth"),
        )  # fmt: skip
        truncated = build_network(spec).net.eval()
        container = layer.rpartition(".")[0] if "denselayer" in layer else layer
        with torch.no_grad():
            seen = []
            module = truncated.get_submodule(container)
            module.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output))
            truncated(images())
        expected = seen[0] if seen[0].ndim == 3 else seen[0].movedim(1, -1)
        found = taken(whole, [layer], images())[layer]
        torch.testing.assert_close(found, expected.reshape(found.shape), rtol=0, atol=1e-5)


def test_maps_with_their_channels_last_are_told_by_timm():
    model = seeded("swin_tiny_patch4_window7_224")
    found = taken(model, ["layers.0.blocks.1", "layers.3.blocks.1"], images(1))
    assert found["layers.0.blocks.1"].shape == (16 * 16, 96)
    assert found["layers.3.blocks.1"].shape == (2 * 2, 768)


def test_networks_are_compared_layer_by_layer_and_left_as_they_were():
    network, same, other = seeded("resnet10t"), seeded("resnet10t"), seeded("resnet10t", 5)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    # Above the second stage the networks differ, below it not.
    half = seeded("resnet10t")
    half.layer3.load_state_dict(other.layer3.state_dict())
    layers = [layer.name for layer in list_layers("resnet10t")]
    batches = [images(8), images(5, size=64) * 2]
    found = stream(network, {"same": same, "half": half, "other": other}, iter(batches), layers)
    for name in layers:
        assert linear_cka(found["same"][name]) == pytest.approx(1, abs=1e-9)
        assert svcca(found["same"][name]).mean == pytest.approx(1, abs=1e-9)
    alike = [svcca(found["half"][name]).mean > 1 - 1e-6 for name in layers]
    assert alike == [name in {"act1", "layer1.0", "layer2.0"} for name in layers]
    assert not [name for name in layers if svcca(found["other"][name]).mean > 0.99]
    assert found["same"]["act1"].count == 13 * 32 * 32
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for one in (network, same) for module in one.modules())


def test_in_place_layers_do_not_reach_what_was_taken():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    batch = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    found = stream(network, {"same": network}, iter([batch]), ["0"])["same"]["0"]
    expected = np.cov(network[0](batch).detach().numpy(), rowvar=False, bias=True)
    for one in found.covariances:
        np.testing.assert_allclose(one.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_maps_of_other_sizes_and_what_is_no_tensor_are_refused():
    small = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))
    with pytest.raises(DataError, match="different sizes"):
        stream(nn.Sequential(nn.Conv2d(3, 4, 3)), {"small": small}, iter([images()]), ["0"])

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(DataError, match="0 gives tuple, not features"):
        taken(nn.Sequential(Pair()), ["0"], images())


def test_layers_are_plain_values():
    assert list_layers("resnet10t")[-1] == Layer(
        name="layer4.0", stage="layer4", index=4, channels=512, cuts=("layer4.0", "layer4"), whole=True
    )

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from ttl.errors import ModelError
from ttl.evaluation.attention import (
    UNCHANGED,
    Maps,
    attention_maps,
    by_chance,
    last_layer,
    randomise,
    rank_correlations,
)
from ttl.models.cuts import list_cuts
from ttl.models.network import NetworkSpec, build_network

BELOW_SIX = ("cls_token", "pos_embed", "patch_embed", *(f"blocks.{n}." for n in range(6)))
"""Names of the tensors of a ViT below its seventh block."""

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(backbone, strategy="ttl", cut="full", size=64, seed=5):
    spec = NetworkSpec(
        backbone=backbone, strategy=strategy, cut=cut, num_classes=2, image_size=size, source="random"
    )
    return build_network(spec, seed=seed).net.eval()


def own_of(network):
    return network.state_dict().items()


def features_of(network, layer, images):
    """The layer's output as torch gives it to a hook, with its gradient from the logit of class 1."""
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = network(images.clone().requires_grad_())
    handle.remove()
    return kept[0], torch.autograd.grad(logits[:, 1].sum(), kept[0])[0]


@pytest.mark.parametrize(
    ("backbone", "cut", "layer", "grid"),
    [
        ("resnet18", "layer2.0", "layer2.0", (8, 8)),
        ("efficientnet_lite0", "blocks.3", "blocks.3", (4, 4)),
        # The layer named by the cut gives what it adds; its block, all features.
        ("densenet121", "denseblock1.denselayer3", "features.denseblock1", (16, 16)),
    ],
)
def test_with_pooling_and_a_linear_head_the_map_is_a_class_activation_map(backbone, cut, layer, grid):
    """Zhou et al., CVPR 2016: there the weight of a channel is the head's, over the number of positions."""
    network = build(backbone, cut=cut)
    maps = attention_maps(network, last_layer(backbone, "ttl", cut), IMAGES, [1, 1, 1])
    features, pooled = [], []
    network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: features.append(output))
    network.global_pool.register_forward_hook(lambda _m, inputs, _o: pooled.append(inputs[0]))
    with torch.no_grad():
        network(IMAGES)
        weights = network.get_classifier().weight[1] / (grid[0] * grid[1])
        expected = torch.einsum("c,nchw->nhw", weights, features[0]).relu()
    assert torch.equal(pooled[0], features[0])
    np.testing.assert_allclose(maps.raw, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert maps.grid == grid
    assert maps.raw.max() > 0


@pytest.mark.parametrize(("strategy", "cut"), [("ftl", "full"), ("ttl", "blocks.5")])
def test_tokens_are_laid_out_as_their_patches_lie(strategy, cut):
    network = build("vit_tiny_patch16_224", strategy, cut)
    layer = last_layer("vit_tiny_patch16_224", strategy, cut)
    tokens, gradients = features_of(network, layer, IMAGES)
    weights = gradients[:, 1:].mean(dim=1, keepdim=True)
    # The first token is of the class; the others follow row by row.
    expected = (tokens[:, 1:] * weights).sum(dim=2).relu().reshape(3, 4, 4)
    maps = attention_maps(network, layer, IMAGES, [1, 1, 1])
    np.testing.assert_allclose(maps.raw, expected.detach().numpy(), rtol=1e-4, atol=1e-8)


def test_a_frozen_layer_has_the_map_of_one_that_is_not_and_the_network_is_left_as_it_was():
    network = build("efficientnet_lite0", "lwft", "blocks.6")
    assert not any(p.requires_grad for p in network.blocks.parameters())
    network.train()
    network.blocks[2].eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        frozen = attention_maps(network, "blocks.4", IMAGES, [0, 1, 0])
        assert not torch.is_grad_enabled()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert not any(p.requires_grad for p in network.blocks.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    network.requires_grad_(True)
    free = attention_maps(network, "blocks.4", IMAGES, [0, 1, 0])
    np.testing.assert_array_equal(frozen.raw, free.raw)
    assert free.raw.max() > 0


def test_the_target_is_the_logit_of_the_class_that_was_asked_for():
    network = build("resnet18", cut="layer2")
    ones = attention_maps(network, "layer2", IMAGES, [1, 1, 1]).raw
    mixed = attention_maps(network, "layer2", IMAGES, [1, 0, 1]).raw
    np.testing.assert_array_equal(mixed[[0, 2]], ones[[0, 2]])
    assert not np.allclose(mixed[1], ones[1])


def test_a_map_that_is_zero_is_said_to_be_empty():
    network = build("resnet18", cut="layer2")
    nn.init.constant_(network.get_classifier().weight, -1.0)
    maps = attention_maps(network, "layer2", IMAGES, [1, 1, 1])
    assert maps.empty.tolist() == [True, True, True]
    assert (maps.values == 0).all()
    assert np.isnan(maps.areas()).all()


def test_logits_that_are_not_finite_are_an_error():
    network = build("resnet18", cut="layer1")
    nn.init.constant_(network.get_classifier().bias, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        attention_maps(network, "layer1", IMAGES, [1, 1, 1])


def test_what_is_shown_has_a_maximum_of_one_where_the_layer_has_its_own():
    raw = np.zeros((2, 4, 4), dtype=np.float32)
    raw[0, 1, 2], raw[1] = 3.0, 5.0
    maps = Maps(raw=raw, size=64)
    assert maps.values.shape == (2, 64, 64)
    assert maps.values.max(axis=(1, 2)).tolist() == [1.0, 1.0]
    # Row 1 and column 2 of four: pixels 16 to 31, and 32 to 47.
    rows, columns = np.nonzero(maps.values[0] == 1.0)
    assert (set(rows), set(columns)) == ({23, 24}, {39, 40})
    # Between positions it falls as (1-|x|)(1-|y|): over c on 4(1 - c + c ln c) of a position's sixteenth.
    c = 0.5 * (31 / 32) ** 2
    assert maps.areas() == pytest.approx([4 * (1 - c + c * np.log(c)) / 16, 1.0], abs=1e-3)


def test_an_area_on_a_coarser_grid_is_of_averages():
    raw = np.zeros((1, 4, 4), dtype=np.float32)
    raw[0, :2, :2] = [[4, 0], [0, 0]]
    coarse = Maps(raw=raw, size=64).coarsened((2, 2))
    np.testing.assert_array_equal(coarse.raw, [[[1.0, 0.0], [0.0, 0.0]]])
    assert coarse.areas()[0] > Maps(raw=raw, size=64).areas()[0]


def test_ranks_are_compared_and_an_even_map_has_none():
    maps = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    assert rank_correlations(maps, maps**3) == pytest.approx([1.0])
    assert rank_correlations(maps, 1 / (1 + maps)) == pytest.approx([-1.0])
    assert np.isnan(rank_correlations(maps, np.ones_like(maps))).all()
    assert np.isnan(rank_correlations(np.ones_like(maps), maps)).all()


@pytest.mark.parametrize("positions", [16, 64])
def test_unrelated_maps_have_the_correlations_of_chance(positions):
    maps = np.random.default_rng(0).random((2, 1000, 1, positions), dtype=np.float32)
    found = np.abs(rank_correlations(*maps)).mean()
    assert by_chance(positions) == pytest.approx(found, rel=0.06)
    assert np.isnan(by_chance(1))


class TestRandomWeights:
    STAGES = ("layer1", "layer2", "layer3", "layer4")

    def cascade(self, network, draws):
        return randomise(network, "layer3", IMAGES, [1, 1, 1], stages=self.STAGES, draws=draws)

    def test_go_from_the_head_down_through_the_stages_that_are_left(self):
        network = build("resnet18", cut="layer3")
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        found = self.cascade(network, [build("resnet18", cut="layer3", seed=9).state_dict()])
        assert [one.part for one in found] == ["head", "layer3", "layer2", "layer1", "everything"]
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())

    def test_that_are_the_same_weights_leave_the_maps_as_they_are(self):
        network = build("resnet18", cut="layer3")
        found = self.cascade(network, [network.state_dict()])
        assert [one.correlation for one in found] == pytest.approx([1.0] * 5)
        assert {one.vanished for one in found} == {0.0}

    def test_change_each_part_with_all_above_it(self):
        network = build("resnet18", cut="layer3")
        other = build("resnet18", cut="layer3", seed=10).state_dict()

        def mixed(*parts):
            own = network.state_dict()
            return {name: other[name] if name.startswith(parts) else own[name] for name in own}

        whole = [one.correlation for one in self.cascade(network, [other])]
        until_two = [one.correlation for one in self.cascade(network, [mixed("fc", "layer3", "layer2")])]
        assert until_two == pytest.approx([*whole[:3], whole[2], whole[2]])
        # At first the blocks of layer1 add nothing to what they are given: no change is to be seen there.
        assert len(set(whole)) == 4

    def test_are_judged_by_magnitudes_where_the_sign_follows_the_draw(self):
        """A map of the image's red alone, which is bright under one head and dark under its opposite."""
        red = nn.Conv2d(3, 1, 1, bias=False)
        parts = {"red": red, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(1, 2)}
        network = nn.Sequential(OrderedDict(parts))
        nn.init.ones_(network.fc.weight)
        red.weight.data = torch.tensor([1.0, 0, 0])[None, :, None, None]
        bright = {name: tensor.clone() for name, tensor in own_of(network)}
        dark = {**bright, "fc.weight": -bright["fc.weight"]}

        def head(*draws):
            return randomise(network, "red", IMAGES, [1, 1, 1], stages=["red"], draws=draws)[0]

        # Half of the pixels are zero in each map, the others those that are zero in the other: -6/7.
        turned = head(dark)
        assert turned.correlation == pytest.approx(-6 / 7, abs=0.01)
        assert turned.absolute == pytest.approx(6 / 7, abs=0.01)
        both = head(bright, dark)
        assert both.correlation == pytest.approx(1 / 14, abs=0.01)
        assert both.absolute == pytest.approx(13 / 14, abs=0.01)
        assert both.correlation < UNCHANGED < both.absolute

    @pytest.mark.parametrize(
        ("backbone", "cut", "parts", "head"),
        [
            ("resnet18", "act1", ["head", "everything"], ["fc"]),
            ("resnet18", "layer2.0", ["head", "layer2", "layer1", "everything"], ["fc"]),
            ("vit_tiny_patch16_224", "blocks.1", ["head", "everything"], ["head"]),
            (
                "vit_tiny_patch16_224",
                "blocks.7",
                ["head", "blocks.7", "blocks.5", "blocks.2", "everything"],
                ["head"],
            ),
        ],
    )
    def test_begin_above_the_layer_that_is_shown(self, backbone, cut, parts, head):
        network = build(backbone, cut=cut)
        other = build(backbone, cut=cut, seed=9).state_dict()
        above = {name: other[name] if name.split(".")[0] in head else own for name, own in own_of(network)}
        stages = [stage.name for stage in list_cuts(backbone, "stage")]

        def cascade(draw):
            return randomise(network, cut, IMAGES, [1, 1, 1], stages=stages, draws=[draw])

        found, head_alone = cascade(other), cascade(above)
        assert [one.part for one in found] == parts
        # Nothing but what lies above the layer is random at first; later parts add to it.
        assert [one.absolute for one in head_alone] == pytest.approx([found[0].absolute] * len(parts))
        if len(parts) > 4:
            below = {**other, **{name: own for name, own in own_of(network) if name.startswith(BELOW_SIX)}}
            assert [one.absolute for one in cascade(below)[:3]] == pytest.approx(
                [found[0].absolute, found[1].absolute, found[1].absolute]
            )
            assert found[1].absolute != found[0].absolute

    def test_leave_no_map_where_nothing_speaks_for_the_class(self):
        network = build("resnet18", cut="layer3")
        silent = {**network.state_dict(), "fc.weight": -torch.ones(2, 256)}
        [head, *_] = self.cascade(network, [silent])
        assert head.vanished == 1.0
        assert np.isnan(head.correlation)
        assert np.isnan(head.absolute)

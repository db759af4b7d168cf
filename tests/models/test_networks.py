"""Every tested family × strategy × kind of cut."""

import pytest
import torch
from torch import nn

from ttl.errors import ModelError
from ttl.models.backbones import create
from ttl.models.cost import cost, forward_macs, training_macs
from ttl.models.cuts import list_cuts, resolve
from ttl.models.network import Network, NetworkSpec, build_network
from ttl.models.order import above

FAMILIES = {
    # backbone: (image size, stage cuts, block cuts, cuts to test)
    "resnet18": (64, 4, 9, ("act1", "layer1", "layer2.0", "layer3")),
    "resnet50": (64, 4, 17, ("layer2", "layer3.3")),
    "densenet121": (64, 4, 59, ("features.denseblock2", "features.denseblock3.denselayer5")),
    "densenet201": (64, 4, 99, ("features.denseblock3",)),
    "efficientnet_b0": (64, 7, 16, ("blocks.2", "blocks.4.1")),
    "efficientnet_lite0": (64, 7, 16, ("blocks.0", "blocks.3.0", "blocks.6.0")),
    "mobilenetv3_large_100": (64, 7, 16, ("blocks.3", "blocks.4.0")),
    "convnext_tiny": (64, 4, 18, ("stages.1", "stages.2.blocks.3")),
    "vit_small_patch16_224": (64, 4, 12, ("blocks.2", "blocks.6")),
}
CASES = [(backbone, cut) for backbone, (*_, cuts) in FAMILIES.items() for cut in cuts]
each_cut = pytest.mark.parametrize(("backbone", "cut"), CASES, ids=[f"{b}-{c}" for b, c in CASES])


def spec(backbone: str, strategy: str, cut: str = "full", source: str = "random") -> NetworkSpec:
    return NetworkSpec(
        backbone=backbone,
        strategy=strategy,
        cut=cut,
        num_classes=3,
        image_size=FAMILIES.get(backbone, (64,))[0],
        source=source,
    )


def features(network: nn.Module, cut: str, images: torch.Tensor) -> torch.Tensor:
    """Return the output of the module `cut`."""
    seen = []
    handle = network.get_submodule(cut).register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0]


def images(size: int = 64, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights files of each backbone, made once: random, but the same for every strategy."""
    folder = tmp_path_factory.mktemp("weights")

    def of(backbone: str) -> str:
        path = folder / f"{backbone}.pth"
        if not path.exists():
            torch.manual_seed(1)
            model = create(backbone, FAMILIES[backbone][0])
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
            torch.save(model.state_dict(), path)
        return str(path)

    return of


@pytest.mark.parametrize("backbone", FAMILIES)
def test_cuts_are_counted_and_ordered(backbone):
    _, stages, blocks, _ = FAMILIES[backbone]
    stage_cuts, block_cuts = list_cuts(backbone, "stage"), list_cuts(backbone, "block")
    assert (len(stage_cuts), len(block_cuts)) == (stages, blocks)
    assert [cut.index for cut in block_cuts] == list(range(blocks))
    sizes = [
        sum(p.numel() for p in build_network(spec(backbone, "ttl", cut.name)).parameters())
        for cut in stage_cuts
        if not cut.whole
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


@each_cut
def test_truncated_features_equal_the_whole_networks(backbone, cut, weights):
    whole = build_network(spec(backbone, "ftl", source=weights(backbone))).eval()
    truncated = build_network(spec(backbone, "ttl", cut, weights(backbone))).eval()
    container = cut.rpartition(".")[0] if "denselayer" in cut else cut
    expected = features(whole.net, container, images())
    found = features(truncated.net, container, images())
    # A dense block concatenates: cut inside, it holds the first channels of the whole block.
    expected = expected[:, : found.shape[1]] if "denselayer" in cut else expected
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    channels = found.shape[-1] if found.ndim == 3 else found.shape[1]
    assert truncated.net.get_classifier().in_features == channels
    assert all(p.requires_grad for p in truncated.parameters())
    kept = {name.rpartition(".")[0] for name, _ in truncated.net.named_parameters()}
    above_cut = set(above(whole.net, cut, 64))
    head = {name for name, m in truncated.net.named_modules() if m is truncated.net.get_classifier()}
    assert {name for name in kept & above_cut if not name.endswith("norm")} <= head


@pytest.mark.parametrize("backbone", FAMILIES)
def test_truncated_logits_are_the_head_on_pooled_features(backbone, weights):
    cut = FAMILIES[backbone][3][0]
    truncated = build_network(spec(backbone, "ttl", cut, weights(backbone))).eval()
    found = features(truncated.net, cut, images())
    if found.ndim == 3:
        found = truncated.net.norm(found)[:, truncated.net.num_prefix_tokens :].mean(1)
    else:
        found = found.mean((2, 3))
    torch.testing.assert_close(truncated(images()), truncated.net.get_classifier()(found), rtol=0, atol=1e-5)


@each_cut
def test_layer_wise_finetuning_moves_only_what_is_above(backbone, cut, weights):
    network = build_network(spec(backbone, "lwft", cut, weights(backbone)))
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    reference = features(network.eval().net, cut, images())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images(n=4)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    upper = set(above(network.net, cut, 64))
    after = network.net.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert all(name.rpartition(".")[0] in upper for name in moved)
    counters = {name for name in after if name.endswith("num_batches_tracked")}
    trained = {name for name, p in network.net.named_parameters() if p.requires_grad}
    assert trained <= {name for name in after if name.rpartition(".")[0] in upper}
    assert len(trained & moved) > 0.5 * len(trained)
    assert {n for n in counters if n.rpartition(".")[0] in upper} <= moved
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)
    torch.testing.assert_close(features(network.eval().net, cut, images()), reference, rtol=0, atol=0)


@each_cut
def test_transfusion_is_pretrained_below_and_half_as_wide_above(backbone, cut, weights):
    whole = build_network(spec(backbone, "ftl", source=weights(backbone))).eval()
    try:
        network = build_network(spec(backbone, "tf", cut, weights(backbone))).eval()
    except ModelError as error:
        pytest.fail(str(error))
    if "denselayer" in cut:
        container = cut.rpartition(".")[0]
        width = build_network(spec(backbone, "ttl", cut)).net.get_classifier().in_features
        expected = features(whole.net, container, images())[:, :width]
        found = features(network.net, container, images())[:, :width]
    else:
        expected, found = features(whole.net, cut, images()), features(network.net, cut, images())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    upper = set(above(network.net, cut, 64))
    widths = {
        name: module.weight.shape[0]
        for name, module in network.net.named_modules()
        if name in upper and isinstance(module, (nn.Conv2d, nn.Linear))
    }
    full = {
        name: module.weight.shape[0]
        for name, module in whole.net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    classifier = network.net.get_classifier()
    compared = 0
    for name, width in widths.items():
        if network.net.get_submodule(name) is classifier or name not in full:
            continue
        assert width == full[name] // 2, name
        compared += 1
    assert compared > 0
    assert network(images()).shape == (2, 3)
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "mobilenetv3_large_100", "resnet50"])
def test_transfusions_new_layers_start_as_wide_as_they_should(backbone):
    """He initialisation by fan-out; a depthwise layer's fan-out is its own, not all channels'."""
    cut = FAMILIES[backbone][3][0]
    network = build_network(spec(backbone, "tf", cut)).net
    upper = set(above(network, cut, 64))
    seen = set()
    for name, module in network.named_modules():
        if name in upper and isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            height, width = module.kernel_size
            expected = (2 * module.groups / (module.out_channels * height * width)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name
            seen.add(module.groups > 1)
    assert seen == ({False} if backbone == "resnet50" else {False, True})


@pytest.mark.parametrize(("backbone", "block"), [("resnet18", "layer4.1"), ("resnet50", "layer4.2")])
def test_the_last_block_of_a_whole_network_is_no_cut_for_ttl_and_tf(backbone, block):
    assert [cut.name for cut in list_cuts(backbone, "block") if cut.whole] == [block]
    for strategy in ("ttl", "tf"):
        with pytest.raises(ModelError, match=r"nothing of \S+ lies above"):
            build_network(spec(backbone, strategy, block))


def test_attention_is_counted():
    """ViT-S/16 at 224 pixels has 4.6 GMACs (Touvron et al., ICML 2021)."""
    whole = NetworkSpec(
        backbone="vit_small_patch16_224", strategy="ftl", num_classes=1000, image_size=224, source="random"
    )
    assert forward_macs(build_network(whole), 224) == pytest.approx(4.6e9, rel=0.01)


def test_costs_of_the_paper():
    def measured(strategy: str, cut: str = "full") -> tuple[float, float]:
        network = build_network(
            NetworkSpec(
                backbone="resnet50",
                strategy=strategy,
                cut=cut,
                num_classes=2,
                image_size=224,
                source="random",
            )
        )
        return sum(p.numel() for p in network.parameters()) / 1e6, forward_macs(network, 224) / 1e9

    assert measured("ftl") == pytest.approx((23.51, 4.09), rel=0.01)
    assert measured("ttl", "layer3") == pytest.approx((8.55, 3.28), rel=0.01)
    assert measured("ttl", "layer3.3") == pytest.approx((6.31, 2.84), rel=0.01)
    assert measured("tf", "layer3") == pytest.approx((12.95, 3.53), rel=0.01)


def test_cost_counts_by_hand():
    network = Network(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(256, 2))
    )
    measured = cost(network, 8)
    assert measured.params == 3 * 4 * 9 + 256 * 2 + 2
    assert measured.macs == 3 * 4 * 9 * 64 + 256 * 2
    assert measured.model_bytes == 4 * measured.params
    assert measured.latency_ms > 0


def test_a_frozen_part_has_no_backward():
    forward = forward_macs(build_network(spec("resnet18", "ftl")), 64)
    full = training_macs(build_network(spec("resnet18", "ftl")), 64)
    top = training_macs(build_network(spec("resnet18", "lwft", "layer4")), 64)
    assert full == pytest.approx(3 * forward, rel=0.1)
    assert top < 1.01 * forward


def test_the_seed_decides_what_is_random_and_leaves_the_caller_alone():
    state = torch.random.get_rng_state()
    first = build_network(spec("resnet18", "tf", "layer2"), seed=3).state_dict()
    again = build_network(spec("resnet18", "tf", "layer2"), seed=3).state_dict()
    other = build_network(spec("resnet18", "tf", "layer2"), seed=4).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["net.layer4.1.conv1.weight"], other["net.layer4.1.conv1.weight"])


@pytest.mark.parametrize("strategy", ["ttl", "lwft", "tf"])
def test_structure_without_weights_takes_the_trained_state(strategy):
    trained = build_network(spec("efficientnet_lite0", strategy, "blocks.3", source="imagenet"))
    empty = build_network(
        spec("efficientnet_lite0", strategy, "blocks.3", source="imagenet"), pretrained=False
    )
    empty.net.load_state_dict(trained.net.state_dict())
    torch.testing.assert_close(empty.eval()(images()), trained.eval()(images()))


def test_names_are_resolved_or_refused():
    assert resolve("densenet121", "denseblock3") == "features.denseblock3"
    assert resolve("densenet121", "transition3") == "features.transition3"
    with pytest.raises(ModelError, match=r"no cut 'layer9'.*layer1, layer2"):
        resolve("resnet18", "layer9")
    with pytest.raises(ModelError, match=r"no model called 'resnet5000'.*resnet"):
        create("resnet5000")
    with pytest.raises(ModelError, match=r"no model called 'resnet5'.*resnet50"):
        create("resnet5")
    with pytest.raises(ModelError, match="nothing of resnet18 lies above layer4: ttl there is ftl"):
        build_network(spec("resnet18", "ttl", "layer4"))
    with pytest.raises(ModelError, match="no strategy is called 'xyz'"):
        build_network(spec("resnet18", "xyz", "layer4"))

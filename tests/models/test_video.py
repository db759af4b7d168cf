"""Networks of volumes: every network × strategy; and a network of images on their slices."""

import pytest
import torch
from torch import nn

from ttl.errors import ModelError
from ttl.models.backbones import create, load_backbone, preprocessing, weights_sha256
from ttl.models.cost import forward_macs, training_macs
from ttl.models.cuts import list_cuts
from ttl.models.network import NetworkSpec, build_network
from ttl.models.order import above
from ttl.models.profile import profile
from ttl.models.slices import count, slices
from ttl.models.weights import pairs

SIDE, DEPTH = 16, 6
LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)
CASES = [
    ("r3d_18", "layer2.0"),
    ("mc3_18", "stem"),
    ("r2plus1d_18", "layer3"),
    ("swin3d_t", "features.4.3"),
]
each_cut = pytest.mark.parametrize(("backbone", "cut"), CASES)


def spec(backbone, strategy, cut="full", source="random", depth=DEPTH):
    return NetworkSpec(
        backbone=backbone,
        strategy=strategy,
        cut=cut,
        source=source,
        num_classes=3,
        image_size=SIDE,
        depth=depth,
    )


def volumes(n=2, depth=DEPTH):
    return torch.randn(n, 3, depth, SIDE, SIDE, generator=torch.Generator().manual_seed(7))


def features(network, cut, inputs):
    seen = []
    handle = network.get_submodule(cut).register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        network(inputs)
    handle.remove()
    return seen[0]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A folder as `TTL_WEIGHTS_MIRROR` names one: random weights, but the same for every strategy."""
    folder = tmp_path_factory.mktemp("mirror")
    for backbone in {name for name, _ in CASES}:
        torch.manual_seed(1)
        model = create(backbone)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        torch.save(model.state_dict(), folder / f"{backbone}.pth")
    return folder


@pytest.fixture
def kinetics(mirror, monkeypatch):
    monkeypatch.setenv("TTL_WEIGHTS_MIRROR", str(mirror))
    return "kinetics"


def test_cuts_are_named_as_the_networks_name_them():
    assert [cut.name for cut in list_cuts("r3d_18", "stage")] == ["layer1", "layer2", "layer3", "layer4"]
    blocks = list_cuts("mc3_18", "block")
    assert [cut.name for cut in blocks][:3] == ["stem", "layer1.0", "layer1.1"]
    assert [cut.channels for cut in blocks] == [64, 64, 64, 128, 128, 256, 256, 512, 512]
    swin = list_cuts("swin3d_t", "stage")
    assert [(cut.name, cut.channels) for cut in swin][1:3] == [("features.2", 192), ("features.4", 384)]
    assert [cut.name for cut in swin if cut.whole] == ["features.6"]
    assert len(list_cuts("swin3d_t", "block")) == 12


@each_cut
def test_each_strategy_keeps_below_the_cut_what_was_pretrained(backbone, cut, kinetics):
    whole = build_network(spec(backbone, "ftl", source=kinetics)).eval()
    expected = features(whole.net, cut, volumes())
    upper = set(above(whole.net, cut, SIDE))
    networks = {name: build_network(spec(backbone, name, cut, kinetics)) for name in ("ttl", "lwft", "tf")}
    for name, network in networks.items():
        found = features(network.eval().net, cut, volumes())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=name)
        assert network(volumes()).shape == (2, 3)
    truncated, frozen, slim = networks.values()
    channels = expected.shape[-1 if backbone == "swin3d_t" else 1]
    assert truncated.net.get_classifier().in_features == channels
    kept = {name.rpartition(".")[0] for name, _ in truncated.net.named_parameters()}
    assert {name for name in kept & upper if name not in ("norm", "fc", "head")} == set()
    # Attention keeps its weights in modules that never run themselves.
    trained = {name.rpartition(".")[0] for name, one in frozen.net.named_parameters() if one.requires_grad}
    assert trained == {name.rpartition(".")[0] for name, _ in frozen.net.named_parameters()} & upper
    widths = {
        name: module.weight.shape[0]
        for name, module in whole.net.named_modules()
        if name in upper and isinstance(module, LAYERS) and module is not whole.net.get_classifier()
    }
    halved = {}
    for name, module in slim.net.named_modules():
        if isinstance(module, LAYERS) and name in widths:
            halved[name] = module.weight.shape[0]
    assert len(halved) > 0.4 * len(widths)
    assert halved == {name: widths[name] // 2 for name in halved}


def test_a_frozen_part_of_volumes_does_not_move(kinetics):
    network = build_network(spec("mc3_18", "lwft", "layer3", kinetics))
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network.train()
    nn.functional.cross_entropy(network(volumes(n=4)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    moved = {name for name, now in network.net.state_dict().items() if not torch.equal(now, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"layer4", "fc"}


def test_weights_come_from_the_mirror_and_are_asked_for_by_their_name(kinetics, monkeypatch):
    state = load_backbone("mc3_18", kinetics, SIDE).state_dict()
    assert state["layer1.0.conv1.1.running_var"].std() > 0.1
    assert len(weights_sha256("mc3_18", kinetics)) == 64
    assert preprocessing("r3d_18").mean == pytest.approx((0.43216, 0.394666, 0.37645))
    with pytest.raises(ModelError, match="mc3_18 has no imagenet weights: its published ones are kinetics"):
        load_backbone("mc3_18", "imagenet", SIDE)
    with pytest.raises(ModelError, match="resnet18 has no kinetics weights"):
        load_backbone("resnet18", "kinetics", SIDE)
    monkeypatch.delenv("TTL_WEIGHTS_MIRROR")
    monkeypatch.setattr(
        "torchvision.models.video.MC3_18_Weights.get_state_dict",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no route")),
    )
    with pytest.raises(ModelError, match=r"kinetics weights of mc3_18 .* torchvision's hub .*no route"):
        load_backbone("mc3_18", "kinetics", SIDE)


def test_a_sweep_of_both_kinds_takes_each_backbone_with_its_own_sources():
    both = ["resnet18", "r3d_18"]
    assert pairs(both, ["imagenet", "kinetics"]) == [("resnet18", "imagenet"), ("r3d_18", "kinetics")]
    assert len(pairs(both, ["random"])) == 2
    with pytest.raises(ModelError, match="r3d_18 has no imagenet"):
        pairs(both, ["imagenet"])
    with pytest.raises(ModelError, match="resnet18 has no kinetics"):
        pairs(["resnet18"], ["imagenet", "kinetics"])


def test_a_network_of_volumes_is_not_for_images():
    with pytest.raises(ModelError, match="r3d_18 takes volumes, and these are images"):
        build_network(spec("r3d_18", "ttl", "layer1", depth=None))


def test_the_products_of_a_volume_are_counted():
    """R3D-18 on 16 × 112 × 112 has 40.7 GMACs (torchvision's own figure)."""
    whole = NetworkSpec(
        backbone="r3d_18", strategy="ftl", num_classes=400, image_size=112, depth=16, source="random"
    )
    network = build_network(whole).to("meta")
    network.blank = lambda size: torch.zeros(1, 3, 16, size, size, device="meta")
    assert forward_macs(network, 112) == pytest.approx(40.697e9, rel=0.01)


def test_slices_are_each_seen_once_and_their_logits_averaged():
    grey = torch.arange(7.0)[None, :, None, None].expand(1, 7, SIDE, SIDE)
    stack = slices(grey[:, None].repeat(1, 3, 1, 1, 1))
    assert stack.shape == (1, count(7, SIDE), 3, SIDE, SIDE)
    assert [picture[:, 0, 0].tolist() for picture in stack[0, :3]] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    # Across the depth, a slice is stretched to a square.
    assert stack[0, 3, 0, :, 0].tolist() == sorted(stack[0, 3, 0, :, 0].tolist())
    assert stack[0, 3, 0, [0, -1], 0].tolist() == [0, 6]
    network = build_network(spec("efficientnet_lite0", "ttl", "blocks.1")).eval()
    pictures = slices(volumes()).flatten(0, 1)
    with torch.no_grad():
        each = network.net(pictures).reshape(2, -1, 3)
        torch.testing.assert_close(network(volumes()), each.mean(1))
        pooled = network.net.forward_head(network.net.forward_features(pictures), pre_logits=True)
        together = network.net.get_classifier()(pooled.reshape(2, each.shape[1], -1).mean(1))
        torch.testing.assert_close(network(volumes()), together)


def test_a_cube_is_seen_alike_from_each_side():
    cube = torch.randn(1, 3, SIDE, SIDE, SIDE)
    stacks = slices(cube).reshape(1, 3, -1, 3, SIDE, SIDE)
    turned = slices(cube.transpose(2, 3)).reshape(1, 3, -1, 3, SIDE, SIDE)
    torch.testing.assert_close(stacks[:, 0], turned[:, 1])


def test_slices_cost_as_many_images():
    image = build_network(spec("efficientnet_lite0", "ttl", "blocks.1", depth=None))
    volume = build_network(spec("efficientnet_lite0", "ttl", "blocks.1"))
    times = count(DEPTH, SIDE)
    assert times == 2 + 6 + 6
    assert forward_macs(volume, SIDE) == times * forward_macs(image, SIDE)
    assert training_macs(volume, SIDE) == pytest.approx(times * training_macs(image, SIDE), rel=1e-6)
    one, all_of_them = profile("efficientnet_lite0", SIDE), profile("efficientnet_lite0", SIDE, DEPTH)
    assert all_of_them.macs.total == times * one.macs.total
    assert all_of_them.params == one.params


def test_a_profile_of_volumes_follows_their_depth():
    shallow, deep = profile("mc3_18", SIDE, 8), profile("mc3_18", SIDE, 16)
    assert deep.macs.total == pytest.approx(2 * shallow.macs.total, rel=0.05)
    assert profile("swin3d_t", SIDE, 8).macs.below["features.2"] < profile("swin3d_t", SIDE, 8).macs.total

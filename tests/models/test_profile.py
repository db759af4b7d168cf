"""The estimate by which jobs are balanced."""

import pytest

from ttl.models.backbones import create
from ttl.models.cost import cost
from ttl.models.cuts import list_cuts
from ttl.models.network import NetworkSpec, build_network
from ttl.models.profile import PER_IMAGE, profile


def test_the_profile_of_a_whole_backbone_is_its_measured_cost():
    spec = NetworkSpec(backbone="resnet18", strategy="ftl", num_classes=1000, image_size=64, source="random")
    assert profile("resnet18", 64).macs.total == pytest.approx(cost(build_network(spec), 64).macs, rel=0.01)


def test_work_follows_what_each_strategy_trains():
    found = profile("resnet18", 64)
    work = {name: found.training_work(name, "layer2") - PER_IMAGE for name in ("ftl", "ttl", "lwft", "tf")}
    low = found.macs.below["layer2"]
    assert work["ftl"] == 3 * found.macs.total
    assert work["ttl"] == 3 * low
    assert work["lwft"] == low + 3 * (found.macs.total - low)
    assert work["ttl"] < work["tf"] < work["ftl"]
    assert 0 < found.macs.below["layer1"] < low < found.macs.total


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0", "vit_small_patch16_224"])
def test_sizes_are_those_of_the_networks(backbone):
    cut = list_cuts(backbone, "stage")[1].name
    size = create(backbone).default_cfg["input_size"][1] if backbone.startswith("vit") else 64
    found = profile(backbone, size)
    for strategy, tolerance in (("ftl", 0.005), ("ttl", 0.005), ("lwft", 0.005), ("tf", 0.25)):
        place = "full" if strategy == "ftl" else cut
        spec = NetworkSpec(
            backbone=backbone, strategy=strategy, cut=place, num_classes=2, image_size=size, source="random"
        )
        params = sum(parameter.numel() for parameter in build_network(spec).parameters())
        assert found.size(strategy, place) == pytest.approx(params, rel=tolerance), strategy

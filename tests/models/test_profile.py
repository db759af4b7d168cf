"""The estimate by which jobs are balanced."""

import pytest

from ttl.models.cost import cost
from ttl.models.network import NetworkSpec, build_network
from ttl.models.profile import PER_IMAGE, profile


def test_the_profile_of_a_whole_backbone_is_its_measured_cost():
    spec = NetworkSpec(backbone="resnet18", strategy="ftl", num_classes=1000, image_size=64, source="random")
    assert profile("resnet18", 64).total == pytest.approx(cost(build_network(spec), 64).macs, rel=0.01)


def test_work_follows_what_each_strategy_trains():
    found = profile("resnet18", 64)
    work = {name: found.training_work(name, "layer2") - PER_IMAGE for name in ("ftl", "ttl", "lwft", "tf")}
    low = found.below["layer2"]
    assert work["ftl"] == 3 * found.total
    assert work["ttl"] == 3 * low
    assert work["lwft"] == low + 3 * (found.total - low)
    assert work["ttl"] < work["tf"] < work["ftl"]
    assert 0 < found.below["layer1"] < low < found.total

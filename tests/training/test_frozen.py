"""Features of a frozen part, kept: the same as computed, where they can be, and none where they cannot."""

import dataclasses

import pytest
import torch
from torch import nn

from ttl.models.network import Network, NetworkSpec, build_network
from ttl.training.accelerator import make_accelerator
from ttl.training.frozen import FrozenFeatures
from ttl.training.loop import Trainer
from ttl.training.pixels import Pixels
from ttl.training.recipe import make_recipe
from ttl.training.trial import Trial


def calls(module):
    """Return a list that grows by one with each call of a module."""
    found = []
    module.register_forward_hook(lambda *_: found.append(1))
    return found


@pytest.mark.parametrize(
    ("backbone", "cut", "size", "depth", "head"),
    [
        ("resnet18", "layer2", 32, None, "pooled"),
        ("resnet18", "layer3.0", 64, None, "flattened"),
        ("efficientnet_lite0", "blocks.2", 32, None, "pooled"),
        ("convnext_atto", "stages.1", 32, None, "pooled"),
        ("vit_tiny_patch16_224", "blocks.5", 32, None, "pooled"),
        ("densenet121", "features.denseblock2", 32, None, "pooled"),
        ("mc3_18", "layer2", 16, 4, "pooled"),
        ("swin3d_t", "features.4.2", 16, 4, "pooled"),
        # Slices of volumes: several features of each.
        ("efficientnet_lite0", "blocks.1", 16, 5, "pooled"),
    ],
)
def test_logits_from_kept_features_are_those_of_the_images(backbone, cut, size, depth, head):
    spec = NetworkSpec(
        backbone=backbone,
        strategy="lwft",
        cut=cut,
        source="random",
        num_classes=3,
        image_size=size,
        head=head,
        depth=depth,
    )
    network = build_network(spec)
    frozen = FrozenFeatures(network, cut, size)
    assert frozen.usable
    assert frozen.keep("train", 6)
    images, places = torch.randn(6, *network.blank(size).shape[1:]), torch.tensor([3, 1, 0, 2, 5, 4])
    bottom = calls(network.net.get_submodule(frozen.names[0]))
    network.train()
    network.eval()
    expected = frozen.run(network, "train", places, lambda: images)
    assert len(bottom) == 1
    # Another order, and no image is made.
    order = torch.tensor([4, 0, 5])
    found = frozen.run(network, "train", places[order], pytest.fail)
    assert torch.allclose(found, expected[order], atol=1e-5)
    # Forward is the modules' own again.
    assert torch.allclose(network(images), expected, atol=1e-5)
    # What is above the cut learns from kept features as it does from images.
    network.train()
    frozen.run(network, "train", places, pytest.fail).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())


class Skipping(nn.Module):
    """Its head sees what the first layer made, past the cut."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(8, 2)

    def forward(self, images):
        low = self.first(images)
        return self.head(torch.cat([low, self.second(low)], dim=1).mean((2, 3)))


def test_a_network_that_looks_past_its_cut_is_computed_each_time():
    network = Network(Skipping(), frozenset({"first", "second"}))
    frozen = FrozenFeatures(network, "second", 8)
    assert not frozen.usable
    assert not frozen.keep("val", 4)
    images, bottom = torch.randn(4, 3, 8, 8), calls(network.net.first)
    for _ in range(2):
        assert torch.equal(frozen.run(network, "val", torch.arange(4), lambda: images), network(images))
    assert len(bottom) == 4


def test_a_table_that_is_too_large_is_not_kept():
    spec = NetworkSpec(
        backbone="resnet18", strategy="lwft", cut="layer1", source="random", num_classes=2, image_size=32
    )
    network = build_network(spec).eval()
    frozen = FrozenFeatures(network, "layer1", 32)
    row = 64 * 8 * 8 * 4
    frozen.room = 10 * row
    assert not frozen.keep("train", 11)
    assert frozen.keep("val", 6)
    assert not frozen.keep("more", 5), "the room is shared"
    images = torch.randn(2, 3, 32, 32)
    logits = [frozen.run(network, "train", torch.arange(2), lambda: images) for _ in range(2)]
    assert torch.equal(*logits)


def make_trainer(toy, tmp_path, *, keep=True, **recipe):
    trial = Trial(
        dataset="toy",
        revision=toy.revision,
        backbone="resnet18",
        source="random",
        strategy="lwft",
        cut="layer2",
        recipe=make_recipe({"base": "fast", "epochs": 4, "batch_size": 16, **recipe}),
        image_size=32,
        seed=0,
    )
    accelerator = make_accelerator("no", cpu=True)
    kept = tmp_path / str(keep)
    kept.mkdir(exist_ok=True)
    trainer = Trainer(trial, Pixels(toy, accelerator.device), accelerator, kept)
    if not keep:
        trainer.frozen = None
    return trainer


def test_training_on_kept_features_comes_to_the_same(toy, tmp_path):
    histories, counts = [], []
    for keep in (True, False):
        trainer = make_trainer(toy, tmp_path, keep=keep, crop_scale=1.0)
        bottom = calls(trainer.network.net.layer1[0].conv1)
        trainer.run(lambda _: None)
        histories.append([epoch.val_loss for epoch in trainer.history])
        counts.append(len(bottom))
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)
    assert counts[0] < 0.75 * counts[1], "images were computed again that had been seen"


def test_with_random_crops_validation_images_alone_are_kept(toy, tmp_path):
    trainer = make_trainer(toy, tmp_path)
    assert set(trainer.frozen.tables) == {"val"}
    assert set(make_trainer(toy, tmp_path, crop_scale=1.0).frozen.tables) == {"train", "val"}


@pytest.mark.parametrize("change", [{"strategy": "ttl"}, {"epochs": 1}])
def test_nothing_is_kept_where_nothing_comes_again(change, toy, tmp_path):
    trainer = make_trainer(toy, tmp_path)
    recipe = dataclasses.replace(trainer.trial.recipe, epochs=change.get("epochs", 4))
    trial = dataclasses.replace(trainer.trial, strategy=change.get("strategy", "lwft"), recipe=recipe)
    assert Trainer(trial, trainer.pixels, trainer.accelerator, tmp_path).frozen is None

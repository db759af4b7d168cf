"""Where pretrained weights come from, and what is said when they do not."""

import fsspec
import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from ttl.errors import ModelError
from ttl.models import backbones
from ttl.models.backbones import create, load_backbone, preprocessing, weights_sha256


def test_the_packaged_weights_are_those_of_imagenet():
    model = load_backbone("efficientnet_lite0", "imagenet", 64)
    first = model.conv_stem.weight
    assert first.shape == (32, 3, 3, 3)
    # A trained network's running variances are far from the 1 of a fresh one.
    assert model.bn1.running_var.std() > 0.1
    assert model.classifier.out_features == 1000


def test_preprocessing_is_the_backbones_own():
    assert preprocessing("resnet50").mean == pytest.approx((0.485, 0.456, 0.406))
    assert preprocessing("vit_small_patch16_224").mean == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_and_a_mirror_give_the_same_weights(suffix, tmp_path, monkeypatch):
    torch.manual_seed(5)
    state = create("resnet18").state_dict()
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    from_file = load_backbone("resnet18", str(path), 64).state_dict()
    monkeypatch.setenv("TTL_WEIGHTS_MIRROR", str(tmp_path))
    from_mirror = load_backbone("resnet18", "imagenet", 64).state_dict()
    assert all(torch.equal(from_file[n], state[n]) and torch.equal(from_mirror[n], state[n]) for n in state)
    assert len(weights_sha256("resnet18", str(path))) == 64
    assert weights_sha256("resnet18", str(path)) == weights_sha256("resnet18", "imagenet")


def test_the_hash_of_weights_follows_their_content_and_not_their_place(tmp_path, monkeypatch):
    packaged = weights_sha256("efficientnet_lite0", "imagenet")
    monkeypatch.setenv("TTL_WEIGHTS_MIRROR", str(tmp_path))
    assert weights_sha256("efficientnet_lite0", "imagenet") == packaged
    save_file(create("efficientnet_lite0").state_dict(), tmp_path / "efficientnet_lite0.safetensors")
    mirrored = weights_sha256("efficientnet_lite0", "imagenet")
    assert len({packaged, mirrored, weights_sha256("efficientnet_lite0", "random")}) == 3


def test_a_file_replaced_in_a_mirrored_bucket_is_fetched_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("TTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TTL_WEIGHTS_MIRROR", "memory://weights")
    bucket = fsspec.filesystem("memory")
    hashes = set()
    for content in (b"one", b"another"):
        bucket.pipe("/weights/resnet18.safetensors", content)
        hashes |= {weights_sha256("resnet18", "imagenet"), weights_sha256("resnet18", "imagenet")}
    assert len(hashes) == 2


def test_the_hubs_weights_are_known_by_their_tensors(monkeypatch):
    made = []

    def create_model(name, *, pretrained, **_):
        made.append(name)
        torch.manual_seed(len(made))
        return timm_create(name, pretrained=False)

    timm_create = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_model)
    first = weights_sha256("resnet10t", "imagenet")
    assert weights_sha256("resnet10t", "imagenet") == first
    assert made == ["resnet10t"]
    backbones._hub_sha256.cache_clear()
    assert weights_sha256("resnet10t", "imagenet") != first
    backbones._hub_sha256.cache_clear()


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.pth.*does not exist"):
        load_backbone("resnet18", str(tmp_path / "nowhere.pth"), 64)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit resnet18"):
        load_backbone("resnet18", str(tmp_path / "other.safetensors"), 64)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match=r"bad\.pth"):
        load_backbone("resnet18", str(tmp_path / "bad.pth"), 64)
    assert not (tmp_path / "bomb-went-off").exists()


def test_a_missing_hub_names_the_other_ways(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", "nowhere")
    with pytest.raises(ModelError) as caught:
        load_backbone("resnet10t", "imagenet", 64)
    message = str(caught.value)
    assert "resnet10t" in message
    for way in ("weights file", "TTL_WEIGHTS_MIRROR", "efficientnet_lite0", "random"):
        assert way in message

"""Volumes: published, packed, read from files, and on their way into a network, counted by hand."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_medmnist import arrays, write
from ttl.data.pack import pack
from ttl.data.prepare import prepare as prepare_dataset
from ttl.data.sources.base import Contents, Sample
from ttl.data.spec import DatasetSpec
from ttl.data.steps import ImageSteps, depth_at
from ttl.data.transforms import augment, draw, prepare
from ttl.data.volume_files import in_order, read_volume
from ttl.data.volumes import VolumeAugmentation
from ttl.errors import DataError, ParamsError
from ttl.evaluation.appearance import pixel_statistics

PLAIN = ImageSteps(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3, interpolation="bilinear", resize=1.0)
"""Leaves pixels in 0 to 255."""


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def whole(count, **changes):
    crop = {
        "start": torch.zeros(count, 3),
        "extent": torch.ones(count, 3),
        "mirrored": torch.zeros(count, 3, dtype=torch.bool),
    }
    return VolumeAugmentation(**{**crop, **changes})


def test_the_depth_keeps_its_proportion():
    assert depth_at((1, 64, 64), 32) is None
    assert depth_at((1, 28, 28, 28), 28) == 28
    assert depth_at((1, 20, 40, 40), 20) == 10
    assert depth_at((1, 1, 64, 64), 16) == 1
    assert prepare(noise(2, 1, 20, 40, 40), image_size=20, steps=PLAIN).shape == (2, 3, 10, 20, 20)
    drawn = draw(2, crop_scale=0.5, flip=True, generator=torch.Generator(), volumes=True)
    assert augment(noise(2, 1, 20, 40, 40), drawn, image_size=24, steps=PLAIN).shape == (2, 3, 12, 24, 24)


def test_a_volume_of_the_right_size_is_normalised_alone():
    volumes = noise(2, 1, 6, 8, 8)
    steps = ImageSteps(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bilinear", resize=1.0)
    found = prepare(volumes, image_size=8, steps=steps)
    expected = torch.stack(
        [(volumes[:, 0] / 255 - m) / s for m, s in zip(steps.mean, steps.std, strict=True)]
    )
    torch.testing.assert_close(found, expected.transpose(0, 1), atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(
        augment(volumes, whole(2), image_size=8, steps=steps), found, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_and_crops_are_exact_on_each_axis(axis):
    volumes = noise(2, 1, 8, 8, 8)
    mirrored = torch.zeros(2, 3, dtype=torch.bool)
    mirrored[1, axis] = True
    found = augment(volumes, whole(2, mirrored=mirrored), image_size=8, steps=PLAIN)[:, 0]
    torch.testing.assert_close(found[0], volumes[0, 0].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], volumes[1, 0].flip(axis).float(), atol=1e-3, rtol=0)
    # Half the sides from a quarter on, at half the size: the voxels in the middle, as they are.
    half = {"start": torch.full((2, 3), 0.25), "extent": torch.full((2, 3), 0.5)}
    half["start"][:, axis] = 0.5
    bounds = [slice(2, 6)] * 3
    bounds[axis] = slice(4, 8)
    larger = volumes.repeat_interleave(1, 0)
    found = augment(larger, whole(2, **half), image_size=5, steps=PLAIN)
    assert found.shape == (2, 3, 5, 5, 5)
    centre = found[:, 0, 2, 2, 2]
    corner = volumes[(slice(None), 0, *bounds)].float()
    # Five samples over four voxels: the middle one lies between the second and the third of each axis.
    torch.testing.assert_close(centre, corner[:, 1:3, 1:3, 1:3].mean((1, 2, 3)), atol=1e-3, rtol=0)


def test_slices_that_are_alike_are_resized_as_images_are():
    image = noise(1, 1, 40, 40)
    volume = image[:, :, None].repeat(1, 1, 30, 1, 1)
    steps = dataclasses.replace(PLAIN, resize=1.25)
    found = prepare(volume, image_size=16, steps=steps)
    expected = prepare(image, image_size=16, steps=steps)
    assert found.shape == (1, 3, 12, 16, 16)
    torch.testing.assert_close(found, expected[:, :, None].expand_as(found), atol=1e-2, rtol=0)
    ramp = torch.arange(32, dtype=torch.uint8)[None, None, :, None, None].expand(1, 1, 32, 32, 32)
    depths = prepare(ramp, image_size=16, steps=PLAIN)[0, 0, :, 0, 0]
    torch.testing.assert_close(depths[2:-2], 2 * torch.arange(16.0)[2:-2] + 0.5, atol=1e-2, rtol=0)


def test_crops_and_flips_are_drawn_as_stated_and_by_the_seed():
    def drawn():
        generator = torch.Generator().manual_seed(3)
        return draw(4000, crop_scale=0.3, flip=True, generator=generator, volumes=True)

    first, again = drawn(), drawn()
    assert torch.equal(first.start, again.start)
    assert torch.equal(first[5:9].mirrored, first.mirrored[5:9])
    share = first.extent.prod(1)
    assert 0.3 * 0.75 < share.min() < 0.35
    assert 0.6 < share.mean() < 0.66
    ratio = first.extent.max(1).values / first.extent.min(1).values
    assert ratio.max() <= 4 / 3 + 1e-5
    assert ((first.start >= 0) & (first.start + first.extent <= 1 + 1e-6)).all()
    assert first.mirrored.float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.03)
    still = draw(9, crop_scale=1.0, flip=False, generator=torch.Generator(), volumes=True)
    assert (still.extent == 1).all()
    assert not still.flipped.any()


def test_published_volumes_are_kept(tmp_path):
    made = arrays()
    rng = np.random.default_rng(1)
    for split in ("train", "val", "test"):
        count = len(made[f"{split}_labels"])
        made[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 28), dtype=np.uint8)
    data = write(tmp_path, made, flag="adrenalmnist3d")
    assert data.info.shape == (1, 28, 28, 28)
    assert data.info.volumes
    assert data.info.classes == ("normal", "hyperplasia")
    assert np.array_equal(data.read(data.indices("val"))[:, 0], made["val_images"])
    data.check()
    made["val_images"] = made["val_images"][:, 0]
    with pytest.raises(
        DataError, match=r"val_images is uint8 \(12, 28, 28\); expected is uint8, \(n, d, h, w\)"
    ):
        write(tmp_path, made, flag="adrenalmnist3d")


def test_the_official_volumes(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("TTL_DATA_MIRROR", str(real_data))
    data = prepare_dataset("adrenalmnist3d", DatasetSpec(source="medmnist"), tmp_path / "a")
    assert {split: sum(found.values()) for split, found in data.info.counts.items()} == {
        "train": 1188, "val": 98, "test": 298,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "said"), [((3, 8, 16, 16), "one channel"), ((1, 8, 16, 12), "square"), ((16, 16), "neither")]
)
def test_what_is_no_usable_volume_is_refused(shape, said, tmp_path):
    sample = Sample(sample_id="a", pixels=np.zeros(shape, np.uint8), label=0, split="train")
    contents = Contents(
        task="binary", classes=("a", "b"), shape=shape, licence="", source="", samples=iter([sample])
    )
    with pytest.raises(DataError, match=said):
        pack("made", contents, tmp_path / "made", fractions={}, seed=0)


def test_the_phantom_has_volumes_of_a_depth(tmp_path):
    spec = DatasetSpec(source="phantom", size=16, options={"patients": 20, "depth": 5})
    data = prepare_dataset("deep", spec, tmp_path / "deep")
    assert data.info.shape == (1, 5, 16, 16)
    with pytest.raises(ParamsError, match="channels is 3"):
        prepare_dataset(
            "colour", DatasetSpec(source="phantom", channels=3, options={"depth": 5}), tmp_path / "colour"
        )


def test_drift_is_not_told_of_volumes():
    with pytest.raises(DataError, match="are no images"):
        pixel_statistics(np.zeros((2, 1, 8, 8, 8), np.uint8))


def test_files_that_hold_no_volume_are_named(tmp_path):
    volume = np.zeros((4, 8, 8), np.uint8)

    def read(name):
        return read_volume(tmp_path / name, shape=(4, 8, 8), fit="pad")

    np.savez(tmp_path / "two.npz", a=volume, b=volume)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "deep.npy", volume.astype(np.int16))
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    (tmp_path / "film.png").write_bytes(b"")
    for name, said in {
        "two.npz": "has the arrays a, b; it must have one",
        "objects.npy": "cannot be read",
        "deep.npy": r"is int16 \(4, 8, 8\), and the model takes uint8",
        "broken.npz": "cannot be read",
        "film.png": "a folder of slices, or a file of one array",
        "none.npy": "the volume is missing",
    }.items():
        with pytest.raises(DataError, match=rf"{name}.*{said}"):
            read(name)
    np.save(tmp_path / "good.npy", volume)
    assert read("good.npy").shape == (1, 4, 8, 8)


def test_slices_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(1, 13):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"slice{number}.png")
    volume = read_volume(tmp_path, shape=(12, 8, 8), fit="pad")
    assert volume[0, :, 0, 0].tolist() == list(range(1, 13))


@pytest.mark.parametrize(
    "names",
    [["a2.png", "a10.png"], ["001.png", "002.png", "010.png"], ["1.2.9", "1.2.10"], ["lower", "upper"],
     ["2.png", "3.png", "10.png"], ["z01-1.5.png", "z02-0.25.png"], ["a.png"], ["08.png", "9.png"]],
)  # fmt: skip
def test_names_tell_the_order_of_slices(names):
    for seed in range(3):
        assert in_order(np.random.default_rng(seed).permutation(names).tolist()) == names


@pytest.mark.parametrize(
    "names",
    # Two series; decimals; a number twice; a letter more.
    [["a2-1.png", "a10-1.png", "b1-2.png"], ["1.5.png", "1.25.png", "10.0.png", "9.5.png"],
     ["s1.png", "s01.png"], ["s1.png", "s01.png", "s2.png", "s10.png"], ["a2.png", "a10b.png"]],
)  # fmt: skip
def test_names_that_do_not_are_refused(names, tmp_path):
    with pytest.raises(DataError, match="read as text they have another than read as numbers"):
        in_order(names)
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: the names of the slices ({min(names)}, ")):
        read_volume(tmp_path, shape=(len(names), 8, 8), fit="pad")

"""From pixels to network input: against torchvision, and against cases that can be counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, v2

from ttl.data.steps import ImageSteps
from ttl.data.transforms import Augmentation, augment, draw, prepare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = ImageSteps(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3, interpolation="bilinear", resize=1.0)
"""Leaves pixels in 0 to 255."""


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def whole(count, **changes):
    zero, one = torch.zeros(count), torch.ones(count)
    crop = {"left": zero, "top": zero, "width": one, "height": one, "flipped": zero.bool()}
    return Augmentation(**{**crop, **changes})


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("side", "image_size", "resize"), [(28, 64, 1.0), (100, 64, 1.0), (300, 224, 256 / 224)]
)
def test_preparing_agrees_with_torchvision(interpolation, side, image_size, resize):
    images = noise(2, 3, side, side)
    steps = ImageSteps(mean=MEAN, std=STD, interpolation=interpolation, resize=resize)
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize(round(image_size * resize), InterpolationMode(interpolation), antialias=True),
            v2.Lambda(lambda x: x.clamp(0, 1)),
            v2.CenterCrop(image_size),
            v2.Normalize(MEAN, STD),
        ]
    )
    ours = prepare(images, image_size=image_size, steps=steps)
    assert ours.shape == (2, 3, image_size, image_size)
    torch.testing.assert_close(ours, reference(images), atol=2e-5, rtol=0)


def test_normalising_is_by_channel_after_grey_is_repeated():
    images = noise(2, 1, 16, 16)
    steps = ImageSteps(mean=MEAN, std=STD, interpolation="bilinear", resize=1.0)
    ours = prepare(images, image_size=16, steps=steps)
    restored = ours * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    expected = images.float().expand(-1, 3, -1, -1) / 255
    torch.testing.assert_close(restored, expected, atol=1e-6, rtol=0)
    augmented = augment(images, whole(2), image_size=16, steps=steps)
    torch.testing.assert_close(augmented, ours, atol=1e-5, rtol=0)


def test_the_whole_crop_is_the_resized_image():
    images = noise(3, 3, 20, 20)
    ours = augment(images, whole(3), image_size=30, steps=PLAIN)
    expected = F.interpolate(images.float(), size=(30, 30), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)


def test_a_much_larger_image_does_not_alias():
    # Every fourth column is bright: none of those that lie around the sampling points.
    stripes = ((torch.arange(256) % 4 == 0) * 255).to(torch.uint8).expand(1, 1, 256, 256).contiguous()
    ours = augment(stripes, whole(1), image_size=64, steps=PLAIN)
    inner = ours[..., 4:-4]
    assert inner.mean() == pytest.approx(255 / 4, abs=2)
    assert inner.std() < 8


def test_a_crop_is_that_part_of_the_image():
    images = noise(1, 1, 7, 7)
    crop = whole(
        1,
        left=torch.tensor([1 / 7]),
        top=torch.tensor([3 / 7]),
        width=torch.tensor([4 / 7]),
        height=torch.tensor([4 / 7]),
    )
    ours = augment(images, crop, image_size=4, steps=PLAIN)
    torch.testing.assert_close(ours[:, :1], images[..., 3:7, 1:5].float(), atol=1e-3, rtol=0)


def test_a_flip_is_left_to_right():
    images = noise(2, 1, 6, 6)
    ours = augment(images, whole(2, flipped=torch.tensor([True, False])), image_size=6, steps=PLAIN)
    torch.testing.assert_close(ours[0, 0], images[0, 0].flip(-1).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(ours[1, 0], images[1, 0].float(), atol=1e-3, rtol=0)


def test_draws_follow_the_generator_and_stay_inside():
    drawn, again = (
        draw(4000, crop_scale=0.3, flip=True, generator=torch.Generator().manual_seed(2)) for _ in range(2)
    )
    for name in Augmentation.__slots__:
        assert torch.equal(getattr(drawn, name), getattr(again, name))
    assert (drawn.left >= 0).all()
    assert (drawn.left + drawn.width <= 1 + 1e-6).all()
    assert (drawn.top + drawn.height <= 1 + 1e-6).all()
    aspect = drawn.width / drawn.height
    assert aspect.min() >= 0.74
    assert aspect.max() <= 1.34
    area = drawn.width * drawn.height
    assert area.min() >= 0.28
    assert area.mean() == pytest.approx(0.64, abs=0.02)
    assert drawn.flipped.float().mean() == pytest.approx(0.5, abs=0.03)


def test_no_augmentation_is_the_whole_image():
    drawn = draw(50, crop_scale=1.0, flip=False, generator=torch.Generator().manual_seed(0))
    assert (drawn.width == 1).all()
    assert (drawn.left == 0).all()
    assert not drawn.flipped.any()


def test_a_part_of_a_batch_is_augmented_as_in_the_whole():
    images = noise(6, 1, 12, 12)
    drawn = draw(6, crop_scale=0.5, flip=True, generator=torch.Generator().manual_seed(1))
    together = augment(images, drawn, image_size=10, steps=PLAIN)
    apart = augment(images[2:5], drawn[2:5], image_size=10, steps=PLAIN)
    torch.testing.assert_close(together[2:5], apart)

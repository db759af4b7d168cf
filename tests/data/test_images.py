"""Single image files: modes, proportions, orientation, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from ttl.data import images
from ttl.data.images import read_image
from ttl.errors import DataError


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(source, *, channels=1, size=(8, 8), fit="pad"):
    return read_image(source, name="x.png", channels=channels, size=size, fit=fit)


WHITE_WIDE = Image.new("L", (16, 8), 255)


def test_an_image_of_the_right_size_is_not_touched(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(pixels)))
    assert np.array_equal(read(tmp_path / "a.png")[0], pixels)
    assert read(tmp_path / "a.png", channels=3).shape == (3, 8, 8)


def test_padding_keeps_all_between_black_bars():
    pixels = read(encode(WHITE_WIDE))[0]
    assert (pixels[2:6] == 255).all()
    assert (pixels[:2] == 0).all()
    assert (pixels[6:] == 0).all()


def test_cropping_and_stretching_fill_the_frame():
    left_black = WHITE_WIDE.copy()
    left_black.paste(0, (0, 0, 4, 8))
    assert (read(encode(left_black), fit="crop") == 255).all()
    stretched = read(encode(left_black), fit="stretch")[0]
    assert (stretched[:, 0] == 0).all()
    assert (stretched[:, 3:] > 240).all()


def test_size_is_height_then_width():
    assert read(encode(WHITE_WIDE), size=(4, 10)).shape == (1, 4, 10)


def test_colour_becomes_grey_by_luma_and_stays_in_order():
    red = encode(Image.new("RGB", (8, 8), (255, 0, 0)))
    assert (read(red) == 76).all()
    assert read(red, channels=3)[:, 0, 0].tolist() == [255, 0, 0]


def test_the_cameras_orientation_is_applied():
    sideways = Image.new("L", (8, 8), 0)
    sideways.paste(255, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = read(encode(sideways, exif=exif))[0]
    assert (upright[:, 4:] == 255).all()
    assert (upright[:, :4] == 0).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deeper_pixels_are_not_guessed(dtype):
    deep = encode(Image.fromarray(np.zeros((8, 8), dtype)), "TIFF")
    with pytest.raises(DataError, match=r"x\.png: its pixels are deeper than 8 bits"):
        read(deep)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_a_damaged_file_is_named(kind):
    rng = np.random.default_rng(0)
    whole = encode(Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)), kind)
    for cut in (0, 3, len(whole) // 2):
        with pytest.raises(DataError, match=r"^x\.png: the image cannot be read"):
            read(whole[:cut])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"^x\.png: the image is missing"):
        read(tmp_path / "absent.png")


def test_too_many_pixels_are_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="16×8 pixels are more than the 100"):
        read(encode(WHITE_WIDE))

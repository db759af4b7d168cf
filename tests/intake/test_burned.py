"""Writing in the pixels: declared, at risk, or seen."""

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundImageStorage

from tests.intake.conftest import dataset
from ttl.data.sources.phantom import OTHER_SCANNER, SCANNERS, draw_anatomy, draw_film
from ttl.intake.burned import declared, seen, suspected

TEXT = "DOE^JANE  1950-02-01\nID 4711-88 Female\nGeneral Hospital 12:30"


def films(size, count, seed=0):
    rng = np.random.default_rng(seed)
    scanners = (*SCANNERS, OTHER_SCANNER)
    return [
        draw_film(draw_anatomy(rng), 0, float(i % 3), size, rng, scanner=scanners[i % 4])
        for i in range(count)
    ]


def write(film, height, place, fill, text=TEXT):
    picture = Image.fromarray(film)
    ImageDraw.Draw(picture).text(place, text, fill=fill, font=ImageFont.load_default(height))
    return np.asarray(picture)


@pytest.mark.parametrize(("size", "count"), [(64, 100), (128, 60), (224, 40), (512, 12)])
def test_films_without_writing_are_not_suspected(size, count):
    assert [i for i, film in enumerate(films(size, count)) if seen(film)] == []


def test_noise_without_writing_is_not_suspected():
    rng = np.random.default_rng(0)
    grain = [rng.normal(mean, 10, (256, 256)).astype(np.uint8) for mean in (55, 180, 225)]
    flat = [np.full((64, 64), value, dtype=np.uint8) for value in (0, 128, 255)]
    assert not any(seen(image) for image in (*grain, *flat))


@pytest.mark.parametrize("height", [12, 16, 24, 32])
@pytest.mark.parametrize("place", [(8, 8), (8, 380), (150, 220)])
def test_white_writing_is_seen(height, place):
    assert all(seen(write(film, height, place, 255)) for film in films(512, 3, seed=1))


@pytest.mark.parametrize("height", [12, 16, 24])
def test_black_writing_is_seen(height):
    assert all(seen(write(film, height, (60, 60), 0)) for film in films(512, 3, seed=2))


def test_most_single_lines_are_seen():
    lines = TEXT.split("\n")
    drawn = [
        write(film, height, place, 255, lines[i % 3])
        for i, film in enumerate(films(512, 6, seed=3))
        for height in (10, 12, 16, 24)
        for place in ((8, 8), (8, 470), (200, 250))
    ]
    assert np.mean([bool(seen(image)) for image in drawn]) > 0.8


def test_a_marker_of_a_side_is_no_writing():
    assert not any(seen(write(film, 24, (8, 8), 255, "R")) for film in films(512, 4))


def test_colour_is_looked_at_too():
    film = np.repeat(films(512, 1)[0][:, :, None], 3, axis=2)
    assert not seen(film)
    yellow = write(np.zeros_like(film), 16, (8, 8), (255, 255, 0))
    assert seen(yellow)


@pytest.mark.parametrize(
    ("changes", "suspect"),
    [
        ({}, False),
        ({"BurnedInAnnotation": "YES"}, True),
        ({"BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, True),
        ({"SOPClassUID": UltrasoundImageStorage, "BurnedInAnnotation": "MAYBE"}, True),
        ({"Modality": "US"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, True),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, False),
        ({"ImageType": "ORIGINAL"}, False),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_what_a_header_says_counts(changes, suspect):
    made = dataset(**changes)
    assert bool(declared(made)) == suspect
    assert bool(suspected(np.zeros((64, 64), dtype=np.uint8), made)) == suspect


def test_it_takes_milliseconds():
    images = films(512, 4)
    began = time.process_time()
    for image in images:
        seen(image)
    assert (time.process_time() - began) / len(images) < 0.05


def test_grain_in_rows_is_no_writing_unless_it_stands_out():
    ground = np.full((128, 256), 178, dtype=np.uint8)
    letters = write(np.zeros_like(ground), 16, (8, 40), 1, "WITHOUT CONTRAST")
    faint = ground + 4 * letters
    bright = np.where(letters, np.uint8(250), np.uint8(100))
    # So many edges that these rows are looked at.
    bright[:, 200::4] = faint[:, 200::4] = 0
    assert not seen(faint)
    assert seen(bright)

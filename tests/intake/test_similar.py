"""Duplicates, near and exact, and patients of the frozen split."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from ttl.data.dataset import pixel_hash
from ttl.data.images import fit_to
from ttl.data.sources.phantom import draw_anatomy, draw_film
from ttl.intake.similar import Known, likeness, phash, thumbnail
from ttl.intake.spec import IntakeSpec
from ttl.intake.verdict import Image, Reason

NEAR = IntakeSpec(incoming="x", classes=("a", "b"), size=224).near


def films(patients, size=128, each=2):
    rng = np.random.default_rng(5)
    drawn = []
    for number in range(patients):
        anatomy = draw_anatomy(rng)
        drawn += [(f"{number:016x}", draw_film(anatomy, number % 3, j % 2, size, rng)) for j in range(each)]
    return drawn


def image(pixels, patient, sample="s"):
    pixels = np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels)
    return Image(
        sample_id=sample,
        patient_id=patient,
        acquired_at=None,
        label=0,
        pixels=pixels,
        sha256=pixel_hash(pixels),
        phash=phash(pixels),
    )


def fitted(pixels, size):
    return fit_to(Picture.fromarray(pixels), (size, size), "pad")[0]


def as_jpeg(pixels):
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "JPEG", quality=50)
    return np.asarray(Picture.open(file))


def cropped(pixels):
    return fitted(np.ascontiguousarray(pixels[1:-1, 1:-1]), len(pixels))


COPIES = {
    "jpeg": as_jpeg,
    "brighter": lambda pixels: np.clip(pixels.astype(int) + 20, 0, 255).astype(np.uint8),
    "flatter": lambda pixels: (pixels * 0.85 + 10).astype(np.uint8),
    "gamma": lambda pixels: (255 * (pixels / 255) ** 0.8).astype(np.uint8),
    "noisier": lambda pixels: np.clip(
        pixels + np.random.default_rng(0).normal(0, 4, pixels.shape), 0, 255
    ).astype(np.uint8),
    "smaller": lambda pixels: fitted(fitted(pixels, len(pixels) // 2), len(pixels)),
}


@pytest.fixture(scope="module")
def drawn():
    return films(60)


def test_films_of_different_patients_are_no_copies(drawn):
    known = Known.of(None)
    for patient, pixels in drawn:
        one = image(pixels, patient)
        assert known.against(one, near=NEAR) is None
        known.add(one)
    assert known.count == 120


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_under_another_patients_name_is_caught(drawn, how):
    known = Known.of(None)
    for patient, pixels in drawn[::2]:
        known.add(image(pixels, patient))
    for _, pixels in drawn[:40:2]:
        found = known.against(image(COPIES[how](pixels), "f" * 16), near=NEAR)
        assert found is not None
        assert found[0] == Reason.NEAR_DUPLICATE


def test_most_copies_that_lack_a_line_at_each_edge_are_caught(drawn):
    known = Known.of(None)
    for patient, pixels in drawn:
        known.add(image(pixels, patient))
    found = [known.against(image(cropped(pixels), "f" * 16), near=NEAR) for _, pixels in drawn[:40]]
    assert np.mean([one is not None for one in found]) >= 0.9


def test_near_copies_of_the_same_patients_images_are_fine_and_exact_ones_are_not(drawn):
    known = Known.of(None)
    patient, pixels = drawn[0]
    known.add(image(pixels, patient))
    assert known.against(image(as_jpeg(pixels), patient), near=NEAR) is None
    for someone in (patient, "f" * 16):
        assert known.against(image(pixels, someone), near=NEAR)[0] == Reason.DUPLICATE


def test_a_dataset_is_known_by_its_pixels(toy):
    known = Known.of(toy)
    assert known.count == toy.samples.height
    train = int(toy.indices("train")[0])
    pixels = toy.read(np.array([train]))[0]
    assert known.against(image(pixels, "f" * 16), near=NEAR)[0] == Reason.DUPLICATE
    brighter = COPIES["flatter"](pixels)
    assert known.against(image(brighter, "f" * 16), near=NEAR)[0] == Reason.NEAR_DUPLICATE
    assert known.against(image(brighter, toy.samples["patient_id"][train]), near=NEAR) is None


def test_only_the_frozen_splits_patients_may_not_come_again(toy):
    known = Known.of(toy)
    new = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
    verdicts = {
        split: known.against(
            image(new, toy.samples.filter(pl.col("split") == split)["patient_id"][0]), near=0
        )
        for split in ("train", "val", "test")
    }
    assert verdicts["train"] is None
    assert verdicts["val"] is None
    assert verdicts["test"] == (Reason.FROZEN_PATIENT, "the patient is in the split test, which is frozen")


def test_images_without_patients_are_somebody_elses(toy, monkeypatch):
    nobody = toy.samples.with_columns(patient_id=pl.lit(None, pl.String))
    known = Known.of(type(toy)(toy.root, toy.info, nobody))
    pixels = COPIES["flatter"](toy.read(np.array([0]))[0])
    assert known.against(image(pixels, "f" * 16), near=NEAR)[0] == Reason.NEAR_DUPLICATE


def test_a_hundred_thousand_are_compared_at_once():
    known = Known.of(None)
    rng = np.random.default_rng(0)
    known.hashes = rng.integers(0, 2**63, (100_000, 4), dtype=np.uint64)
    known.owners, known.count = np.arange(100_000), 100_000
    one = image(rng.integers(0, 256, (32, 32), dtype=np.uint8), "f" * 16)
    assert known.against(one, near=NEAR) is None


def test_likeness_is_of_details_and_not_of_what_all_images_share():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    body = 60 * (x**2 + y**2 < 0.6)
    one, other = (body + gaussian_filter(rng.normal(0, 60, (64, 64)), 1.5) + 60 for _ in range(2))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
    assert likeness(one.astype(np.uint8), other.astype(np.uint8)) < 0.8
    assert likeness(one.astype(np.uint8), (0.7 * one + 20).astype(np.uint8)) > 0.99
    flat = np.full((64, 64), 3, np.uint8)
    assert (likeness(flat, flat + 6), likeness(flat, one.astype(np.uint8))) == (1, 0)
    assert thumbnail(np.full((3, 10, 10), 7, np.uint8)).tolist() == [[7] * 64] * 64

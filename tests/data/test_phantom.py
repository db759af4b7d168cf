"""The synthetic films: fixed by their seed, and neither trivial nor hopeless."""

import hashlib

import numpy as np
import pytest

from ttl.data.prepare import prepare
from ttl.data.sources.phantom import PhantomOptions, make_samples
from ttl.data.spec import DatasetSpec
from ttl.errors import ParamsError

SPEC = DatasetSpec(source="phantom", split={"train": 0.66, "val": 0.17, "test": 0.17})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare("phantom", SPEC, tmp_path_factory.mktemp("packed") / "phantom")


def test_the_default_is_the_demos(data):
    counts = {split: sum(classes.values()) for split, classes in data.info.counts.items()}
    assert counts == {"train": 498, "val": 128, "test": 129}
    assert data.info.shape == (1, 64, 64)
    assert data.samples["patient_id"].n_unique() == 256
    assert data.samples["site"].n_unique() == 3
    assert data.samples["acquired_at"].null_count() == 0
    assert data.samples["sha256"].n_unique() == len(data.samples)
    for _, patient in data.samples.group_by("patient_id"):
        assert patient["split"].n_unique() == 1
        assert patient["site"].n_unique() == 1
        assert patient["acquired_at"].is_sorted()


def test_it_says_that_it_is_synthetic(data):
    assert data.info.synthetic
    assert "synthetic" in data.info.source
    assert "synthetic" in data.info.notes[0]


def test_the_seed_determines_every_byte(data, tmp_path):
    again = prepare("phantom", SPEC, tmp_path / "again")
    for file in data.root.iterdir():
        ours, theirs = (
            hashlib.sha256((r / file.name).read_bytes()).digest() for r in (data.root, again.root)
        )
        assert ours == theirs
    other = prepare("phantom", DatasetSpec(source="phantom", seed=1), tmp_path / "other")
    assert not set(other.samples["sha256"]) & set(data.samples["sha256"])


def test_more_patients_leave_the_others_as_they_were():
    few, more = (list(make_samples(PhantomOptions(patients=n), size=32, channels=1, seed=5)) for n in (4, 6))
    assert len(more) > len(few)
    for one, same in zip(few, more, strict=False):
        assert one.sample_id == same.sample_id
        assert np.array_equal(one.pixels, same.pixels)


def _fineness(pixels):
    """Energy of the finest grain in the middle of the lungs: what a finding adds."""
    grain = pixels[:, 0].astype(float)
    fine = 4 * grain[:, 1:-1, 1:-1] - (
        grain[:, :-2, 1:-1] + grain[:, 2:, 1:-1] + grain[:, 1:-1, :-2] + grain[:, 1:-1, 2:]
    )
    return np.log((fine[:, 12:45, 8:54] ** 2).mean(axis=(1, 2)))


def _auroc(scores, labels):
    positive, negative = scores[labels == 1], scores[labels == 0]
    return (positive[:, None] > negative[None]).mean()


def test_a_finding_is_fine_texture_but_one_number_does_not_tell_it(data):
    pixels, labels = data.read(np.arange(len(data.samples))), data.samples["label"].to_numpy()
    assert 0.65 < _auroc(_fineness(pixels), labels) < 0.93
    assert 0.4 < _auroc(pixels.mean(axis=(1, 2, 3)), labels) < 0.6
    assert 0.4 < _auroc(pixels.std(axis=(1, 2, 3)), labels) < 0.75


def test_strength_zero_shows_nothing_and_noise_turns_labels():
    plain = PhantomOptions(patients=80)
    clean, noisy = (
        [s.label for s in make_samples(o, size=16, channels=1, seed=0)]
        for o in (PhantomOptions(patients=80, label_noise=0.0), PhantomOptions(patients=80, label_noise=0.25))
    )
    assert len(clean) > 200
    assert 0.4 < np.mean(clean) < 0.6
    assert noisy != clean
    hidden = list(make_samples(PhantomOptions(patients=80, strength=0.0), size=64, channels=1, seed=0))
    scores = _fineness(np.stack([s.pixels for s in hidden]))
    assert 0.4 < _auroc(scores, np.array([s.label for s in hidden])) < 0.6
    assert plain.label_noise == 0


def test_label_noise_is_admitted(tmp_path):
    spec = DatasetSpec(source="phantom", size=16, options={"patients": 30, "label_noise": 0.1})
    assert "10% of the labels" in prepare("noisy", spec, tmp_path / "n").info.notes[1]


def test_colour_is_the_same_film_thrice(tmp_path):
    spec = DatasetSpec(source="phantom", size=32, channels=3, options={"patients": 20})
    pixels = prepare("colour", spec, tmp_path / "c").read(np.arange(20))
    assert pixels.shape == (20, 3, 32, 32)
    assert np.array_equal(pixels[:, 0], pixels[:, 2])


def test_too_small_a_film_is_refused(tmp_path):
    with pytest.raises(ParamsError, match="dataset tiny: size is 8"):
        prepare("tiny", DatasetSpec(source="phantom", size=8), tmp_path / "tiny")

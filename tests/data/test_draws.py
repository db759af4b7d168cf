"""Nested shares and repeated splits: whole patients, every class in proportion, by content and seed alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttl.data.draws import nested_share, redraw
from ttl.errors import DataError


def cohort(patients=300, seed=0, classes=3):
    """Return labels and patients of images: one to four a patient, all of his class, of which one is rare."""
    rng = np.random.default_rng(seed)
    of = rng.choice(classes, size=patients, p=[0.6, 0.3, 0.1])
    images = rng.integers(1, 5, size=patients)
    owner = np.repeat(np.arange(patients), images)
    return np.repeat(of, images), [f"p{one:04}" for one in owner]


def taken(labels, patients, share, seed=0, classes=3):
    return nested_share(labels, patients, classes=classes, share=share, seed=seed)


def test_a_share_has_its_part_of_every_class():
    labels, patients = cohort()
    for share in (0.1, 0.25, 0.5, 0.8):
        mask = taken(labels, patients, share)
        for one in range(3):
            # To within half of the largest patient's images.
            assert abs(mask[labels == one].sum() - share * (labels == one).sum()) <= 2
    assert taken(labels, patients, 1.0).all()


def test_the_small_lies_inside_the_large_and_no_patient_is_split():
    labels, patients = cohort()
    masks = [taken(labels, patients, share) for share in (0.01, 0.1, 0.5, 0.9)]
    for small, large in pairwise(masks):
        assert not (small & ~large).any()
        assert small.sum() < large.sum()
    owner = np.array(patients)
    for mask in masks:
        assert not set(owner[mask]) & set(owner[~mask])
    # However small the share: one patient of each class.
    assert set(labels[masks[0]].tolist()) == {0, 1, 2}


def test_it_follows_names_and_seed_and_not_the_order_of_the_samples():
    labels, patients = cohort()
    mask = taken(labels, patients, 0.3)
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = taken(labels[order], [patients[i] for i in order], 0.3)
    assert (shuffled == mask[order]).all()
    other = taken(labels, patients, 0.3, seed=1)
    assert 0.05 < (mask & other).mean() < 0.25  # by chance, 0.09


def test_a_patient_of_several_classes_counts_for_the_rarest():
    # 40 patients have the common class alone, 10 have the rare one beside it.
    patients = [f"c{i}" for i in range(40) for _ in range(2)] + [f"r{i}" for i in range(10) for _ in range(2)]
    labels = np.array([0, 0] * 40 + [0, 1] * 10)
    mask = nested_share(labels, patients, classes=2, share=0.2, seed=3)
    assert len({patients[i] for i in np.flatnonzero(mask) if patients[i][0] == "r"}) == 2
    assert len({patients[i] for i in np.flatnonzero(mask) if patients[i][0] == "c"}) == 8


def test_samples_of_several_labels_are_stratified_by_the_rarest_and_the_healthy_for_themselves():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 3)) < [0.5, 0.2, 0.05]).astype(int)
    mask = nested_share(labels, [f"p{i}" for i in range(400)], classes=3, share=0.25, seed=0)
    assert abs(mask.mean() - 0.25) < 0.01
    rare = labels[:, 2] == 1
    assert abs(mask[rare].sum() - 0.25 * rare.sum()) <= 0.5
    healthy = ~labels.any(axis=1)
    assert abs(mask[healthy].sum() - 0.25 * healthy.sum()) <= 0.5


@given(st.integers(0, 10_000), st.floats(0.01, 1), st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_shares_are_nested_whatever_they_are(seed, one, other):
    labels, patients = cohort(patients=40, seed=seed)
    small, large = (taken(labels, patients, share, seed=seed) for share in sorted((one, other)))
    assert not (small & ~large).any()


def hidden_class():
    """Return labels and patients: of 40 who have the rarest class, 12 have the second, with 4 images."""
    images = [(0, f"c{i}") for i in range(60) for _ in range(2)] + [(2, f"r{i}") for i in range(40)]
    images += [(1, f"r{i}") for i in range(12) for _ in range(4)]
    labels, patients = zip(*images, strict=True)
    return np.array(labels), list(patients)


@given(st.integers(0, 10_000), st.booleans(), st.lists(st.floats(0.01, 1), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_no_share_lacks_a_class_though_all_its_patients_count_for_another(seed, several, shares):
    one, patients = hidden_class()
    labels = np.eye(3, dtype=int)[one] if several else one
    masks = [taken(labels, patients, share, seed=seed) for share in sorted(shares)]
    for mask in masks:
        assert set(one[mask]) == {0, 1, 2}
    for small, large in pairwise(masks):
        assert not (small & ~large).any()


def redrawn(labels, patients, sides, seed=0, hashes=None):
    hashes = [f"h{i}" for i in range(len(labels))] if hashes is None else hashes
    return np.array(redraw(labels, patients, hashes, sides, classes=("a", "b", "c"), seed=seed))


def test_a_split_drawn_anew_leaks_nothing_and_is_as_large_as_before():
    labels, patients = cohort()
    sides = np.random.default_rng(0).choice(["train", "val", "test"], p=[0.6, 0.2, 0.2], size=len(labels))
    # Images of two patients are one and the same: they stay together.
    hashes = [f"h{i}" for i in range(len(labels))]
    first, last = 0, len(labels) - 1
    hashes[last] = hashes[first]
    new = redrawn(labels, patients, sides.tolist(), hashes=hashes)
    owner = np.array(patients)
    for one in ("train", "val", "test"):
        assert not set(owner[new == one]) & set(owner[new != one])
        assert abs((new == one).sum() - (sides == one).sum()) <= 4
        for label in range(3):
            expected = (sides == one).mean() * (labels == label).sum()
            assert abs(((new == one) & (labels == label)).sum() - expected) <= 4
    assert new[first] == new[last]
    again = redrawn(labels, patients, sides.tolist(), hashes=hashes, seed=1)
    assert (new != again).mean() > 0.3


def test_of_two_splits_the_third_is_nobodys_business():
    labels, patients = cohort()
    sides = ["train", "val"] * (len(labels) // 2) + ["train"] * (len(labels) % 2)
    assert set(redrawn(labels, patients, sides)) == {"train", "val"}


def test_sides_that_cannot_have_every_class_are_left_to_the_check():
    from ttl.data.splits import check_classes  # noqa: PLC0415

    labels = np.array([0, 0, 0, 1])
    new = redraw(labels, list("abcd"), list("1234"), ["train", "train", "val", "test"], classes="ab", seed=0)
    with pytest.raises(DataError, match="has no sample in the split"):
        check_classes(labels.tolist(), new, classes=("a", "b"))

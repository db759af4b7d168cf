"""No patient and no identical image on two sides, every class in its share, given splits kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttl.data.splits import assign, divide, group, keep, leak_notes
from ttl.errors import DataError

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
CLASSES = ("normal", "ill")


def test_groups_follow_patients_and_images_transitively():
    patients = ["a", "a", "b", None, None, "c"]
    hashes = ["1", "2", "2", "3", "4", "3"]
    # a and b share image 2; the unknown fourth shares image 3 with c; the fifth stands alone.
    assert group(patients, hashes).tolist() == [0, 0, 0, 1, 2, 1]


def test_unknown_patients_are_not_one_patient():
    assert group([None] * 3, ["1", "2", "3"]).tolist() == [0, 1, 2]


def test_a_patient_called_like_an_image_is_not_that_image():
    assert group(["1", "2"], ["2", "3"]).tolist() == [0, 1]


@st.composite
def cohorts(draw):
    count = draw(st.integers(60, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    people = rng.integers(0, count // 2, count)
    known = rng.random(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    patients = [f"p{p}" if k else None for p, k in zip(people, known, strict=True)]
    copies = rng.random(count) < 0.05
    hashes = [f"h{rng.integers(0, 10)}" if c else f"own{i}" for i, c in enumerate(copies)]
    labels = (rng.random(count) < draw(st.floats(0.25, 0.75))).astype(int).tolist()
    return labels, patients, hashes, draw(st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_no_group_stands_on_two_sides_and_every_class_has_its_share(cohort):
    labels, patients, hashes, seed = cohort
    split = divide(labels, patients, hashes, classes=CLASSES, fractions=FRACTIONS, seed=seed)
    for keys in (patients, hashes):
        sides = {}
        for key, name in zip(keys, split.names, strict=True):
            if key is not None:
                assert sides.setdefault(key, name) == name
    largest = np.bincount(group(patients, hashes)).max()
    for label in (0, 1):
        total = labels.count(label)
        for name, share in FRACTIONS.items():
            have = sum(n == name and y == label for n, y in zip(split.names, labels, strict=True))
            assert abs(have - share * total) <= largest + 1


def test_single_images_are_divided_to_the_nearest():
    labels = [0] * 400 + [1] * 100
    hashes = [str(i) for i in range(500)]
    split = divide(labels, [None] * 500, hashes, classes=CLASSES, fractions=FRACTIONS, seed=0)
    counts = {n: [0, 0] for n in FRACTIONS}
    for name, label in zip(split.names, labels, strict=True):
        counts[name][label] += 1
    assert counts == {"train": [280, 70], "val": [60, 15], "test": [60, 15]}
    assert split.notes == ()


def test_the_seed_alone_decides():
    arguments = ([0, 1] * 50, [None] * 100, [str(i) for i in range(100)])
    one, same, other = (
        divide(*arguments, classes=CLASSES, fractions=FRACTIONS, seed=s).names for s in (1, 1, 2)
    )
    assert one == same != other


def test_a_rare_class_reaches_every_side():
    labels = np.array([0] * 200 + [1] * 3)
    sides = assign(labels, np.arange(203), classes=2, fractions=[0.7, 0.15, 0.15], seed=3)
    assert sorted(sides[labels == 1].tolist()) == [0, 1, 2]


def test_a_class_too_rare_is_named():
    labels = [0] * 50 + [1] * 2
    with pytest.raises(DataError, match=r"class 'ill' has no sample in the split .*normal: 50, ill: 2"):
        divide(labels, [None] * 52, [str(i) for i in range(52)], classes=CLASSES, fractions=FRACTIONS, seed=0)


def test_one_patient_alone_cannot_be_divided():
    with pytest.raises(DataError, match="the split val is empty; the split test is empty"):
        divide([0, 1], ["a", "a"], ["1", "2"], classes=CLASSES, fractions=FRACTIONS, seed=0)


GIVEN = ["train", "train", "val", "val", "test", "test"]
LABELS = [0, 1, 0, 1, 0, 1]


def test_a_given_split_is_kept_and_its_leaks_are_counted():
    split = keep(LABELS, [None] * 6, ["x", "y", "x", "y", "z", "x"], GIVEN, classes=CLASSES)
    assert split.names == tuple(GIVEN)
    assert split.notes == (
        "2 images occur in both train and val of the given split, which is kept as it is.",
        "1 image occurs in both train and test of the given split, which is kept as it is.",
        "1 image occurs in both val and test of the given split, which is kept as it is.",
        "6 samples are 3 distinct images; the others are exact copies.",
        "1 of the identical images carries different labels.",
    )


def test_copies_on_one_side_are_no_leak():
    assert leak_notes(["x", "x", "y"], ["train", "train", "val"]) == []


def test_a_patient_on_two_sides_of_a_given_split_is_an_error():
    with pytest.raises(DataError, match=r"1 patient stands on two sides .*: anna in train and test\. Move"):
        keep(
            LABELS,
            ["anna", None, "ben", None, "anna", "cy"],
            list("abcdef"),
            GIVEN,
            classes=CLASSES,
        )


def test_many_torn_patients_are_counted():
    sides = ["train"] * 8 + ["test"] * 8
    with pytest.raises(DataError, match=r"8 patients stand .*; and 3 more"):
        keep([0, 1] * 8, [f"p{i}" for i in range(8)] * 2, [str(i) for i in range(16)], sides, classes=CLASSES)


@pytest.mark.parametrize(
    ("labels", "sides", "said"),
    [
        ([0, 1, 0, 1], ["train", "train", "val", "val"], "the split test is empty"),
        (
            [0, 1, 0, 1, 0, 0],
            ["train", "train", "val", "val", "test", "test"],
            "class 'ill' has no sample in the split test",
        ),
    ],
)
def test_an_incomplete_given_split_is_an_error(labels, sides, said):
    with pytest.raises(DataError, match=said):
        keep(labels, [None] * len(labels), [str(i) for i in range(len(labels))], sides, classes=CLASSES)

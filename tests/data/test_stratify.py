"""Dividing images with several labels, with numbers: against the wanted counts, and against chance."""

import numpy as np
import pytest

from ttl.data.splits import divide, group
from ttl.data.stratify import check_labels, stratify
from ttl.errors import DataError

SHARES = [0.7, 0.15, 0.15]
FRACTIONS = dict(zip(("train", "val", "test"), SHARES, strict=True))


def cohort(seed=0, patients=400, classes=14):
    """Patients with 1 to 6 images, 14 labels present in 30 % to 0.7 % of them, correlated, some unknown."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, 7, patients))
    prevalence = 0.3 * 0.75 ** np.arange(classes)
    tendency = 0.6 * rng.normal(size=(patients, 1)) + 0.8 * rng.normal(size=(patients, classes))
    ill = tendency > np.quantile(tendency, 1 - prevalence, axis=0).diagonal()
    labels = (ill[groups] & (rng.random((len(groups), classes)) < 0.8)).astype(np.int64)
    labels[rng.random(labels.shape) < 0.05] = -1
    return labels, groups


def imbalance(labels, sides):
    """Return how far each label's positives are from their share, the mean over sides, in images."""
    wanted = np.outer(SHARES, (labels == 1).sum(axis=0))
    have = np.stack([(labels[sides == side] == 1).sum(axis=0) for side in range(3)])
    return np.abs(have - wanted).mean()


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_shared_out_far_better_than_by_chance(seed):
    labels, groups = cohort(seed)
    sides = stratify(labels, groups, fractions=SHARES, seed=seed)
    rng = np.random.default_rng(seed)
    by_chance = [imbalance(labels, rng.choice(3, groups.max() + 1, p=SHARES)[groups]) for _ in range(50)]
    assert imbalance(labels, sides) < 1.5
    assert imbalance(labels, sides) < 0.3 * np.mean(by_chance)
    assert np.bincount(sides) / len(sides) == pytest.approx(SHARES, abs=0.01)


def test_no_patient_stands_on_two_sides_and_large_ones_stand_on_all():
    labels, groups = cohort()
    sides = stratify(labels, groups, fractions=SHARES, seed=0)
    assert all(len(set(sides[groups == one])) == 1 for one in np.unique(groups))
    sizes = np.bincount(groups)[groups]
    means = [sizes[sides == side].mean() for side in range(3)]
    assert max(means) - min(means) < 0.5


def test_a_label_of_three_patients_is_on_every_side():
    labels = np.zeros((300, 2), dtype=np.int64)
    labels[:150, 0] = 1
    labels[[3, 80, 220], 1] = 1
    sides = stratify(labels, np.arange(300), fractions=SHARES, seed=1)
    assert sorted(sides[labels[:, 1] == 1].tolist()) == [0, 1, 2]


def test_presence_and_absence_count_and_what_is_unknown_does_not():
    """A label that nearly all have is shared out by those who lack it; unknown rows follow the sizes."""
    labels = np.ones((200, 1), dtype=np.int64)
    labels[:20] = 0
    labels[100:] = -1
    sides = stratify(labels, np.arange(200), fractions=SHARES, seed=0)
    assert np.bincount(sides[:20], minlength=3).tolist() == [14, 3, 3]
    assert np.bincount(sides, minlength=3).tolist() == [140, 30, 30]


def test_the_seed_alone_decides():
    labels, groups = cohort()
    one, same, other = (stratify(labels, groups, fractions=SHARES, seed=seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_patients_and_copies_stay_together_in_a_division():
    labels, groups = cohort(patients=120, classes=4)
    rng = np.random.default_rng(0)
    patients = [f"p{one}" for one in groups]
    hashes = [f"copy{rng.integers(5)}" if rng.random() < 0.03 else f"own{i}" for i in range(len(groups))]
    rows = [tuple(row) for row in labels.tolist()]
    split = divide(rows, patients, hashes, classes=tuple("abcd"), fractions=FRACTIONS, seed=0)
    bound = group(patients, hashes)
    names = np.array(split.names)
    assert all(len(set(names[bound == one])) == 1 for one in np.unique(bound))


def sides_of(*rows):
    """Return labels and sides from (side, labels) rows."""
    return np.array([labels for _, labels in rows]), [side for side, _ in rows]


def test_a_label_that_cannot_be_scored_is_said_and_one_that_cannot_be_learnt_is_an_error():
    both = [("train", (1, 0)), ("train", (0, 1)), ("test", (1, 1)), ("test", (0, 0))]
    labels, sides = sides_of(*both, ("val", (1, 0)), ("val", (0, 0)), ("val", (0, -1)))
    (note,) = check_labels(labels, sides, classes=("a", "b"))
    assert note == "Not scored in the split val, and left out of its means: b (never present)."
    labels, sides = sides_of(*both[1:], ("val", (1, 0)), ("val", (0, 1)))
    with pytest.raises(DataError, match=r"train cannot teach a \(never present\), b \(never absent\)"):
        check_labels(labels, sides, classes=("a", "b"))
    labels, sides = sides_of(*both, ("val", (1, 0)), ("val", (1, -1)))
    with pytest.raises(DataError, match="none of the labels can be scored in the split val"):
        check_labels(labels, sides, classes=("a", "b"))
    labels, sides = sides_of(*both)
    with pytest.raises(DataError, match="the split val is empty"):
        check_labels(labels, sides, classes=("a", "b"))

"""Drift: closed forms of the discrepancy, false alarms as often as promised, and shifts that are seen."""

import json
import math
import time

import numpy as np
import pytest

from ttl.data.sources.phantom import OTHER_SCANNER, draw_anatomy, draw_film
from ttl.errors import DataError
from ttl.evaluation.appearance import STATISTICS, pixel_statistics
from ttl.evaluation.drift import Observed, assess, calibrate
from ttl.evaluation.two_sample import effective, median_distance, mmd2, squared_distances

MIXTURE = np.random.default_rng(0).normal(size=(3, 8))


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_the_discrepancy_has_its_closed_form():
    # Gretton et al. (2012), equation 3, by hand: k(d) = exp(−d²/2) for bandwidth 1.
    near, far = math.exp(-0.5), math.exp(-4.5)
    assert mmd2(column(0, 1), column(0, 1), bandwidth=1) == pytest.approx(near - 1)
    between = (math.exp(-4.5) + math.exp(-8) + math.exp(-2) + math.exp(-4.5)) / 4
    assert mmd2(column(0, 1), column(3, 4), bandwidth=1) == pytest.approx(2 * near - 2 * between)
    assert mmd2(column(0, 0), column(3, 3), bandwidth=1) == pytest.approx(2 - 2 * far)


def test_it_is_the_discrepancy_of_two_gaussians():
    # For N(0, 1) and N(1, 1) in one dimension, bandwidth 1: E k = exp(−δ²/6)/√3.
    rng = np.random.default_rng(0)
    found = [mmd2(rng.normal(0, 1, (500, 1)), rng.normal(1, 1, (500, 1)), bandwidth=1) for _ in range(60)]
    truth = 2 / math.sqrt(3) * (1 - math.exp(-1 / 6))
    error = np.std(found) / math.sqrt(60)
    assert error < 0.006
    assert abs(np.mean(found) - truth) < 3 * error


def test_pairs_within_a_patient_do_not_count():
    x, y = column(0, 0, 5), column(1, 2)
    # Of x only the pairs (0, 5), twice each, are of two patients.
    within, other = math.exp(-12.5), math.exp(-0.5)
    between = np.exp(-np.array([1, 4, 1, 4, 16, 9]) / 2).mean()
    found = mmd2(x, y, bandwidth=1, x_groups=["a", "a", "b"])
    assert found == pytest.approx(within + other - 2 * between)


def test_without_change_it_is_zero_on_average_however_alike_a_patients_images_are():
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(10), 4)

    def sample():
        return (rng.normal(size=(10, 2))[owner] + 0.05 * rng.normal(size=(40, 2)),)

    grouped, single = [], []
    for _ in range(300):
        (x,), (y,) = sample(), sample()
        grouped.append(mmd2(x, y, bandwidth=1, x_groups=owner, y_groups=owner))
        single.append(mmd2(x, y, bandwidth=1))
    error = np.std(grouped) / math.sqrt(300)
    assert abs(np.mean(grouped)) < 3 * error
    assert np.mean(single) > 10 * error


def test_it_does_not_change_with_rotation_nor_with_scale():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 5)), rng.normal(0.5, 1, size=(20, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    plain = mmd2(x, y, bandwidth=median_distance(x))
    turned = [7 * side @ turn + 100 for side in (x, y)]
    assert mmd2(*turned, bandwidth=median_distance(turned[0])) == pytest.approx(plain, rel=1e-6)


def test_distances_and_their_median():
    assert squared_distances(column(0, 1), column(3, 5)).tolist() == [[9, 25], [4, 16]]
    assert median_distance(column(0, 1, 3)) == 2
    assert median_distance(column(2, 2, 2)) == 1
    assert effective(np.array([3, 3, 3])) == 3
    assert effective(np.array([4, 1, 1])) == pytest.approx(2)


def test_one_patient_is_no_sample():
    with pytest.raises(DataError, match="one patient alone"):
        mmd2(column(0, 1), column(3, 4), bandwidth=1, y_groups=["a", "a"])


def observed(rng, patients, *, films=(1, 4), likeness=0.8, shift=0.0, columns=3):
    """Draw three dependent views of patients whose images share the portion `likeness` of their variance."""
    counts = rng.integers(*films, patients)
    owner = np.repeat(np.arange(patients), counts)
    own, each = rng.normal(size=(patients, columns)), rng.normal(size=(len(owner), columns))
    images = math.sqrt(likeness) * own[owner] + math.sqrt(1 - likeness) * each + shift
    noisy = 100 * images @ MIXTURE[:columns] + 5 * rng.normal(size=(len(owner), 8))
    return Observed({"pixels": images, "features": noisy, "outputs": images[:, 0]}, owner)


def false_alarms(drops, *, by_image=False, per_reference=5, patients=50, drop_patients=15, **options):
    rng = np.random.default_rng(3)
    fired = []
    for number in range(drops // per_reference):
        reference = observed(rng, patients, **options)
        for _ in range(per_reference):
            drop = observed(rng, drop_patients, **options)
            if by_image:
                sides = [Observed(one.views, np.arange(len(one.owner))) for one in (reference, drop)]
            else:
                sides = [reference, drop]
            found = calibrate(sides[0], sides[1].films, resamples=200, seed=number)
            fired.append(assess(sides[0], sides[1], found))
    return fired


def test_false_alarms_are_as_many_as_promised():
    reports = false_alarms(600, per_reference=3)
    # Three standard errors of 600 drops.
    assert abs(np.mean([one.drifted for one in reports]) - 0.05) < 0.027
    each = [np.mean([one.views[view].fired for one in reports]) for view in reports[0].views]
    assert max(each) < 0.05 + 0.027
    assert all(one.drifted == (one.rank <= 0.05 + 1 / 201) for one in reports)
    assert np.mean([one.rank <= 0.5 for one in reports]) == pytest.approx(0.5, abs=0.08)


def test_a_drop_larger_than_what_the_reference_can_imitate_is_judged_too():
    reports = false_alarms(300, per_reference=1, patients=40, drop_patients=60)
    assert abs(np.mean([one.drifted for one in reports]) - 0.05) < 0.04


def test_images_taken_for_independent_would_alarm_far_too_often():
    options = {"films": (4, 7), "likeness": 0.9}
    grouped = np.mean([one.drifted for one in false_alarms(150, **options)])
    by_image = np.mean([one.drifted for one in false_alarms(150, by_image=True, **options)])
    assert grouped < 0.11
    assert by_image > 0.4


def test_a_shift_is_seen_in_the_view_that_shows_it():
    rng = np.random.default_rng(4)
    reference = observed(rng, 80)
    drop = observed(rng, 30)
    drop.views["outputs"] = drop.views["outputs"] + 2
    report = assess(reference, drop, calibrate(reference, drop.films))
    assert report.drifted
    assert report.views["outputs"].fired
    assert report.views["outputs"].rank == pytest.approx(1 / 1001)
    assert report.rank <= 0.05
    assert not report.views["pixels"].fired


def test_the_report_is_plain_values():
    rng = np.random.default_rng(5)
    reference, drop = observed(rng, 40), observed(rng, 12)
    report = assess(reference, drop, calibrate(reference, drop.films, resamples=100))
    values = json.loads(json.dumps(report.to_dict()))
    assert values["drifted"] is report.drifted
    assert values["views"]["pixels"] == {
        "statistic": report.views["pixels"].statistic,
        "threshold": report.views["pixels"].threshold,
        "rank": report.views["pixels"].rank,
        "fired": report.views["pixels"].fired,
    }
    assert (values["patients"], values["reference_patients"]) == (12, 40)
    again = assess(reference, drop, calibrate(reference, drop.films, resamples=100))
    assert again.to_dict() == report.to_dict()


def test_the_statistic_is_the_discrepancy_times_the_harmonic_number_of_patients():
    rng = np.random.default_rng(6)
    reference, drop = observed(rng, 20, films=(2, 3)), observed(rng, 10, films=(2, 3))
    calibration = calibrate(reference, drop.films, resamples=100)
    scale = calibration.views["features"]
    sides = [scale.apply(one.views["features"]) for one in (reference, drop)]
    plain = mmd2(*sides, bandwidth=scale.bandwidth, x_groups=reference.owner, y_groups=drop.owner)
    report = assess(reference, drop, calibration)
    assert report.views["features"].statistic == pytest.approx(plain * 20 * 10 / 30)
    assert sides[0].mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert sides[0].std(axis=0) == pytest.approx(1)


def test_any_view_fires_in_the_share_of_imitations_that_was_asked_for():
    rng = np.random.default_rng(7)
    reference = observed(rng, 60)
    calibration = calibrate(reference, [2] * 20, alpha=0.1, resamples=1000)
    assert calibration.imitated == 20
    assert 0.1 / 3 <= calibration.level <= 0.1
    # Each imitation is judged by the others, as a drop is by all of them.
    place = round(calibration.level * 1001)
    nulls = np.stack([np.sort(view.null)[::-1] for view in calibration.views.values()])
    assert (calibration.joint <= place).mean() == pytest.approx(0.1, abs=0.006)
    assert [view.threshold for view in calibration.views.values()] == nulls[:, place - 1].tolist()


def test_a_column_that_never_varies_tells_nothing_until_it_does():
    rng = np.random.default_rng(8)
    values = np.stack([rng.normal(size=60), np.full(60, 0.1)], axis=1)
    reference = Observed({"pixels": values}, np.arange(60))
    drop = Observed({"pixels": values[:20]}, np.arange(20))
    calibration = calibrate(reference, drop.films)
    assert not assess(reference, drop, calibration).drifted
    moved = Observed({"pixels": values[:20] + np.array([0, 5])}, np.arange(20))
    assert assess(reference, moved, calibration).drifted


@pytest.mark.parametrize(
    ("views", "patients", "message"),
    [
        ({"outputs": [0.0, 1.0]}, ["a"], "view outputs has 2 rows for 1 images"),
        ({"outputs": [0.0, math.nan]}, ["a", "b"], "not finite"),
        ({}, [], "nothing to compare"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(views, patients, message):
    with pytest.raises(DataError, match=message):
        Observed(views, patients)


def test_what_gives_no_threshold_is_refused():
    rng = np.random.default_rng(9)
    reference, drop = observed(rng, 20), observed(rng, 8)
    with pytest.raises(DataError, match="the reference has 9 patients; 10 are the fewest"):
        calibrate(observed(rng, 9), drop.films)
    with pytest.raises(DataError, match=r"0\.05 of 59 resamples by any of 3 views"):
        calibrate(reference, drop.films, resamples=59)
    with pytest.raises(DataError, match="one patient alone"):
        calibrate(reference, [3])
    calibration = calibrate(reference, drop.films, resamples=60)
    del drop.views["outputs"]
    with pytest.raises(DataError, match="differ in their views: outputs"):
        assess(reference, drop, calibration)


def test_it_takes_seconds():
    rng = np.random.default_rng(10)
    reference = Observed({"features": rng.normal(size=(2000, 256))}, np.arange(2000) // 2)
    drop = Observed({"features": rng.normal(size=(200, 256))}, np.arange(200) // 2)
    start = time.perf_counter()
    assess(reference, drop, calibrate(reference, drop.films, resamples=200))
    assert time.perf_counter() - start < 10


def test_statistics_of_plain_images():
    flat = np.full((1, 1, 8, 8), 100, np.uint8)
    found = dict(zip(STATISTICS, pixel_statistics(flat)[0], strict=True))
    assert found == {
        **dict.fromkeys(STATISTICS, 0.0),
        "mean": 100,
        **{name: 100 for name in STATISTICS if name.startswith("quantile")},
    }
    board = np.where(np.indices((8, 8)).sum(axis=0) % 2, 255, 0).astype(np.uint8)[None, None]
    found = dict(zip(STATISTICS, pixel_statistics(board)[0], strict=True))
    assert found["black"] == found["white"] == 0.5
    assert found["deviation"] == pytest.approx(127.5)
    assert found["gradient"] == pytest.approx(np.log1p(255))
    assert found["fineness"] == 0
    colour = pixel_statistics(np.concatenate([flat, board], axis=1))
    assert colour.shape == (1, 2 * len(STATISTICS))
    assert colour[0, len(STATISTICS)] == 127.5
    with pytest.raises(DataError, match="3 × 8"):
        pixel_statistics(flat[:, :, :3])


def test_the_noise_estimate_is_the_noises_deviation_and_blind_to_slopes():
    rng = np.random.default_rng(11)
    slope = np.linspace(60, 190, 256)[None, :] * np.ones((256, 1))
    images = np.stack([slope, slope + rng.normal(0, 8, slope.shape)])
    noise = np.expm1(pixel_statistics(images[:, None].astype(np.uint8))[:, STATISTICS.index("noise")])
    assert noise[0] < 1.5
    assert noise[1] == pytest.approx(8, rel=0.05)


def test_another_scanner_is_seen_in_sixty_films():
    def films(count, start, scanner=None):
        drawn = []
        for number in range(start, start + count):
            rng = np.random.default_rng([12, number])
            drawn.append(draw_film(draw_anatomy(rng), 0, number % 2, 64, rng, scanner=scanner))
        return Observed({"pixels": pixel_statistics(np.stack(drawn)[:, None])}, np.arange(count))

    reference = films(150, 0)
    same, other = films(60, 1000), films(60, 2000, OTHER_SCANNER)
    calibration = calibrate(reference, same.films)
    unchanged, found = (assess(reference, one, calibration).views["pixels"] for one in (same, other))
    assert unchanged.statistic < 2 * unchanged.threshold
    assert found.fired
    assert found.statistic > 10 * found.threshold

"""SVCCA and linear CKA against closed forms, and against scikit-learn's CCA."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from ttl.errors import DataError
from ttl.evaluation.similarity import Moments, linear_cka, svcca


def gaussian(n, features, seed=0):
    return np.random.default_rng(seed).normal(size=(n, features))


def orthonormal(n, features, seed=0):
    """Return samples whose covariance is exactly the identity over n."""
    centred = gaussian(n, features, seed)
    return np.linalg.qr(centred - centred.mean(0))[0]


def moments(x, y, batch=300):
    found = Moments()
    for start in range(0, max(len(x), len(y)), batch):
        found.add(torch.from_numpy(x[start : start + batch]), torch.from_numpy(y[start : start + batch]))
    return found


def related(n=2000):
    """Return 12 and 9 features with 6 common causes, some clearer than others."""
    causes = gaussian(n, 6, 1)
    x = causes @ gaussian(6, 12, 2) + 0.7 * gaussian(n, 12, 3)
    y = causes @ gaussian(6, 9, 4) + 0.9 * gaussian(n, 9, 5) + 3
    return x, y


def test_batches_add_up_to_the_whole_however_far_the_mean_is_from_zero():
    x, y = (values + 1e4 for values in related())
    x[1000:] += 5
    found = moments(x, y, batch=77)
    expected = np.cov(x, y, rowvar=False, bias=True)
    assert (found.count, found.features) == (2000, (12, 9))
    for one, part in zip(
        found.covariances, (expected[:12, :12], expected[12:, 12:], expected[:12, 12:]), strict=True
    ):
        np.testing.assert_allclose(one.numpy(), part, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", ["nothing", "rotation", "scale and shift"])
def test_features_are_like_themselves_rotated_or_scaled(change):
    x = gaussian(500, 20) * np.geomspace(1, 0.1, 20)
    rotation = np.linalg.qr(gaussian(20, 20, 1))[0]
    y = {"nothing": x, "rotation": x @ rotation, "scale and shift": 7 * x - 3}[change]
    found = moments(x, y)
    correlations = svcca(found)
    np.testing.assert_allclose(correlations.values, 1, atol=1e-12)
    assert correlations.directions[0] == correlations.directions[1] == len(correlations.values) < 20
    assert linear_cka(found) == pytest.approx(1, abs=1e-12)


def test_any_invertible_map_leaves_cca_at_one_and_not_cka():
    x = gaussian(500, 8)
    found = moments(x, x @ gaussian(8, 8, 1))
    np.testing.assert_allclose(svcca(found, variance=1).values, 1, atol=1e-9)
    assert linear_cka(found) < 0.9


def test_independent_features_are_at_the_level_of_chance():
    """E ρ² is c / (n - 1) for two independent sets of c; linear CKA is c / (n + c)."""
    n, c = 4000, 40
    found = moments(gaussian(n, c), gaussian(n, c, 1))
    values = svcca(found, variance=1).values
    assert (values**2).mean() == pytest.approx(c / (n - 1), rel=0.1)
    assert values.max() < 2.5 * np.sqrt(c / n)
    assert linear_cka(found) == pytest.approx(c / (n + c), rel=0.1)


@pytest.mark.parametrize("shared", [1, 3])
def test_so_many_shared_directions_give_so_many_correlations_of_one(shared):
    common = gaussian(3000, shared)
    x = np.hstack([common, gaussian(3000, 10 - shared, 1)]) @ np.linalg.qr(gaussian(10, 10, 2))[0]
    y = np.hstack([common, gaussian(3000, 10 - shared, 3)]) @ np.linalg.qr(gaussian(10, 10, 4))[0]
    correlations = svcca(moments(x, y))
    assert correlations.directions == (10, 10)
    np.testing.assert_allclose(correlations.values[:shared], 1, atol=1e-9)
    assert correlations.values[shared] < 0.15
    assert correlations.mean == pytest.approx(correlations.values.sum() / 10)


@pytest.mark.parametrize(("variance", "kept"), [(0.5, 1), (0.9, 2), (0.99, 3), (1.0, 4)])
def test_the_fewest_directions_that_hold_the_variance_are_kept(variance, kept):
    x = orthonormal(300, 4) * np.sqrt([80, 15, 4.5, 0.5])
    y = orthonormal(300, 4) @ np.linalg.qr(gaussian(4, 4))[0]
    assert svcca(moments(x, y), variance=variance).directions[0] == kept


def test_what_is_kept_is_what_varies():
    """A direction with a thousandth of the variance is shared: SVCCA leaves it out, CCA has it."""
    shared, own, other = (orthonormal(900, 3, 1)[:, [i]] for i in range(3))
    found = moments(np.hstack([own, 0.03 * shared]), np.hstack([other, 0.03 * shared]))
    assert svcca(found).values == pytest.approx([0], abs=1e-9)
    assert svcca(found, variance=1).values == pytest.approx([1, 0], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_no_direction(seed):
    """Of 62 features 40 follow from the other 20, and two are constant."""
    x = gaussian(400, 20, seed)
    redundant = np.hstack([x, x @ gaussian(20, 40, 1), np.ones((400, 2))])
    correlations = svcca(moments(redundant, gaussian(400, 30, 2)), variance=1)
    assert correlations.directions == (20, 30)
    assert len(correlations.values) == 20


def test_cca_is_scikit_learns():
    x, y = related()
    model = CCA(n_components=9, max_iter=5000, tol=1e-12).fit(x, y)
    u, v = model.transform(x, y)
    expected = np.sort([abs(np.corrcoef(u[:, i], v[:, i])[0, 1]) for i in range(9)])[::-1]
    np.testing.assert_allclose(svcca(moments(x, y), variance=1).values, expected, atol=1e-8)


def test_svcca_is_cca_of_the_singular_directions_as_published():
    """The same in other words: singular vectors of the samples, then the angles between them."""

    def directions(values):
        left, singular, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
        return left[:, : int(np.searchsorted(np.cumsum(singular**2) / (singular**2).sum(), 0.99)) + 1]

    x, y = related()
    x, y = x * np.geomspace(1, 0.01, 12), y * np.geomspace(1, 0.01, 9)
    a, b = directions(x), directions(y)
    found = svcca(moments(x, y))
    assert found.directions == (a.shape[1], b.shape[1]) == (5, 4)
    np.testing.assert_allclose(found.values, np.linalg.svd(a.T @ b, compute_uv=False), atol=1e-12)


def test_cka_is_the_alignment_of_gram_matrices():
    x, y = related(400)
    centre = np.eye(400) - 1 / 400
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre  # noqa: E741 - the article's names
    expected = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    assert linear_cka(moments(x, y)) == pytest.approx(expected, abs=1e-12)


def test_cka_weighs_directions_by_their_variance():
    basis, a, b = orthonormal(200, 3), np.array([3, 2, 1.0]), np.array([1, 2, 5.0])
    expected = (a**2 * b**2).sum() / np.sqrt((a**4).sum() * (b**4).sum())
    assert linear_cka(moments(basis * a, basis * b)) == pytest.approx(expected, abs=1e-12)


def test_features_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="100 samples cannot be compared with 25, row for row"):
        Moments().add(torch.zeros(100, 3), torch.zeros(25, 3))
    with pytest.raises(DataError, match="not finite"):
        Moments().add(torch.full((4, 2), torch.nan), torch.zeros(4, 2))
    with pytest.raises(DataError, match="1 samples have no covariance"):
        svcca(moments(np.ones((1, 2)), np.ones((1, 2))))
    for measure in (svcca, linear_cka):
        with pytest.raises(DataError, match="do not vary"):
            measure(moments(np.ones((9, 2)), gaussian(9, 2)))
    with pytest.raises(DataError, match="variance is 99; it must be a share"):
        svcca(moments(gaussian(9, 2), gaussian(9, 2)), variance=99)

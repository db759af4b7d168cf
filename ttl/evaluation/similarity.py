"""How alike two sets of features of the same images are: SVCCA and linear CKA, from streamed second moments.

Samples are rows and features are columns. Nothing but means, covariances and a cross-covariance is kept, so
that memory depends on the number of features alone, however many images there are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttl.errors import DataError

VARIANCE = 0.99
"""Share of the variance that SVCCA keeps of each set of features (Raghu et al., NeurIPS 2017)."""


class Moments:
    """Means and second moments of two sets of features of the same samples, in float64.

    `add` takes batches of any size; the result does not depend on how samples are divided into batches, save
    for rounding. Matrices stay on the device of the first batch.
    """

    def __init__(self) -> None:
        self.count = 0
        self._means: tuple[Tensor, Tensor] | None = None
        self._xx = self._yy = self._xy = torch.empty(0)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take samples [n, features of x] and [n, features of y], row for row.

        Raises `DataError` where rows do not belong together, or values are not finite.
        """
        if len(x) != len(y):
            raise DataError(
                f"{len(x)} samples cannot be compared with {len(y)}, row for row: the layers' feature maps "
                "are of different sizes; compare layers of the same size"
            )
        if not len(x):
            return
        x, y = x.double(), y.double()
        means = x.mean(0), y.mean(0)
        if not all(bool(mean.isfinite().all()) for mean in means):
            raise DataError("features are not finite; the network's weights are damaged, or overflow")
        x, y = x - means[0], y - means[1]
        xx, yy, xy = x.T @ x, y.T @ y, x.T @ y
        if self._means is None:
            self.count, self._means = len(x), means
            self._xx, self._yy, self._xy = xx, yy, xy
            return
        # Chan, Golub & LeVeque 1979: sums about the means add up, once moved to the common mean.
        total = self.count + len(x)
        moved = [new - old for new, old in zip(means, self._means, strict=True)]
        weight = self.count * len(x) / total
        self._xx += xx + weight * torch.outer(moved[0], moved[0])
        self._yy += yy + weight * torch.outer(moved[1], moved[1])
        self._xy += xy + weight * torch.outer(moved[0], moved[1])
        first, second = (old + by * len(x) / total for old, by in zip(self._means, moved, strict=True))
        self.count, self._means = total, (first, second)

    @property
    def features(self) -> tuple[int, int]:
        """The number of features of x, and of y."""
        return self._xx.shape[-1], self._yy.shape[-1]

    @property
    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """The covariance of x, that of y, and the cross-covariance [features of x, features of y]."""
        if self.count < 2:
            raise DataError(f"{self.count} samples have no covariance; give at least two")
        return self._xx / self.count, self._yy / self.count, self._xy / self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlations:
    """Canonical correlations in [0, 1], the largest first, and how many directions each side kept.

    There are as many correlations as the side with fewer directions has.
    """

    values: NDArray[np.float64]
    directions: tuple[int, int]

    @property
    def mean(self) -> float:
        """Their mean, the figure that Raghu et al. call SVCCA similarity."""
        return float(self.values.mean())


def svcca(moments: Moments, *, variance: float = VARIANCE) -> Correlations:
    """Return the canonical correlations of two sets of features within their main directions.

    Each set is projected to the fewest singular directions that hold this share of its variance; then the
    canonical correlations of the projections are found. Raghu et al., NeurIPS 2017. With `variance=1` it is
    plain CCA. Raises `DataError` for features that do not vary.
    """
    if not 0 < variance <= 1:
        raise DataError(f"variance is {variance}; it must be a share above 0, and at most 1")
    xx, yy, xy = moments.covariances
    left, right = _whitening(xx, variance), _whitening(yy, variance)
    # In whitened coordinates the canonical correlations are the cross-covariance's singular values.
    values = torch.linalg.svdvals(left.T @ xy @ right).clamp(0.0, 1.0)
    return Correlations(
        values=values.cpu().numpy().astype(np.float64), directions=(left.shape[1], right.shape[1])
    )


def linear_cka(moments: Moments) -> float:
    """Return linear centred kernel alignment, between 0 and 1. Kornblith et al., ICML 2019, equation 3.

    It weighs directions by their variance; rotations and a common scale do not change it. Raises `DataError`
    for features that do not vary.
    """
    xx, yy, xy = moments.covariances
    norms = torch.linalg.norm(xx) * torch.linalg.norm(yy)
    if not norms > 0:
        raise DataError(_CONSTANT)
    return float(((xy**2).sum() / norms).clamp(0.0, 1.0))


def _whitening(covariance: Tensor, variance: float) -> Tensor:
    """Return the map [features, directions kept] to uncorrelated coordinates of unit variance."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    # What is below rounding is no direction, though it would be blown up to unit variance.
    real = values > len(values) * torch.finfo(values.dtype).eps * values[0]
    if not values[0] > 0:
        raise DataError(_CONSTANT)
    share = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    before = torch.cat([share.new_zeros(1), share[:-1]])
    kept = (before < variance) & real
    whitening: Tensor = vectors[:, kept] / values[kept].sqrt()
    return whitening


_CONSTANT = "the features do not vary over the samples: they have no correlation with anything"

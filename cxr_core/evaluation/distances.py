"""Distances between two sets of features, each image with a weight: FID and KID."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.linalg
from scipy.linalg import blas

_ROWS = 2048
"""Images that are computed with at once: a kernel of this many by as many is the largest that KID makes."""


def effective_size(weights: np.ndarray) -> float:
    """Kish's effective number of images, (sum w)^2 / sum w^2: n for equal weights, fewer for unequal ones."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0


@dataclass(frozen=True)
class Moments:
    """All that FID needs of a set of features, in float64; two of disjoint sets merge into that of both.

    `weight` and `squares` are the sums of the images' weights and of their squares, `mean` (width,) is weighted, and
    `scatter` (width, width) is the weighted sum of the outer squares of what deviates from it.
    """

    weight: float
    squares: float
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, weights: np.ndarray, *, exact: bool = False) -> "Moments":
        """Of features (n, width) with weights (n,) >= 0, not all 0. Images of weight 0 cost nothing.

        Products are computed a block of images at a time and around the mean of all, in float32 unless `exact`, which
        takes twice as long. Float32 moves FID by 1e-6 of itself, but by 5e-4 where one side has collapsed to a few
        directions: FID takes roots of what rounding leaves in all others.
        """
        if not weights.all():
            features, weights = features[weights > 0], weights[weights > 0]
        weight, parts = float(weights.sum()), list(blocks(len(weights)))
        mean = np.sum([weights[rows] @ features[rows].astype(np.float64) for rows in parts], axis=0) / weight
        precision, product = (np.float64, blas.dsyrk) if exact else (np.float32, blas.ssyrk)
        middle, roots = mean.astype(precision), np.sqrt(weights).astype(precision)
        upper = np.zeros((features.shape[1],) * 2, order="F")
        for rows in parts:
            around = features[rows].astype(precision, copy=False) - middle
            upper += product(1.0, (around * roots[rows, None]).T)
        off = mean - middle  # by rounding
        scatter = upper + np.triu(upper, 1).T - weight * np.outer(off, off)
        return cls(weight, float((weights**2).sum()), mean, scatter)

    def merged(self, other: "Moments") -> "Moments":
        """Of both sets together (Chan, Golub and LeVeque 1979)."""
        weight, apart = self.weight + other.weight, other.mean - self.mean
        between = np.outer(apart, apart * (self.weight * other.weight / weight))
        return Moments(
            weight,
            self.squares + other.squares,
            self.mean + apart * (other.weight / weight),
            self.scatter + other.scatter + between,
        )

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, (width, width): divided by n - 1 of n images of equal weight."""
        return self.scatter / (self.weight - self.squares / self.weight)


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians: |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    Heusel et al. 2017, arXiv 1706.08500, equation 6. The trace of the root is the sum of the roots of the eigenvalues
    of A B; no root of a matrix is taken.
    """
    root = np.sqrt(np.clip(_eigenvalues(cov_a, cov_b), 0, None)).sum()
    found = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    return max(0.0, float(found))  # rounding makes two equal sets -1e-12


def _eigenvalues(cov_a: np.ndarray, cov_b: np.ndarray) -> np.ndarray:
    """Of A B: those of the symmetric F' A F with B = F F'.

    F is Cholesky's or, where features without variance make B singular, of its eigenvectors.
    """
    try:
        return np.asarray(scipy.linalg.eigvalsh(cov_a, cov_b, type=2))
    except np.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(cov_b)
        factor = vectors * np.sqrt(np.clip(values, 0, None))
        return np.asarray(scipy.linalg.eigvalsh(factor.T @ cov_a @ factor))


def fid(x: np.ndarray, y: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray, *, rough: bool = False) -> float:
    """Frechet distance of the Gaussians fitted to features x (n, width) and y (m, width). Biased upwards, as 1/n.

    Right to 2e-5 of itself, also where a side has collapsed; if `rough`, only where none has (see `Moments.of`). NaN
    where the weights leave a side a single image, which has no covariance.
    """
    if min(np.count_nonzero(x_weights), np.count_nonzero(y_weights)) < 2:
        return float("nan")
    a, b = (Moments.of(*side, exact=not rough) for side in ((x, x_weights), (y, y_weights)))
    return frechet(a.mean, a.covariance, b.mean, b.covariance)


def kid(x: np.ndarray, y: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """Unbiased squared maximum mean discrepancy of x (n, width) and y (m, width); it may be below 0.

    Binkowski et al. 2018, arXiv 1801.01401: the kernel (x.y / width + 1)^3, an image never paired with itself. Weights
    are (..., n) and (..., m), resamples first; each kernel is computed once for all of them. Returns shape (...), NaN
    where a side has a single image.
    """
    a, b = (np.atleast_2d(w) / w.sum(axis=-1, keepdims=True) for w in (x_weights, y_weights))
    found = _within(x, a) + _within(y, b) - 2 * _across(x, y, a, b)
    return found.reshape(x_weights.shape[:-1])


def cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / width + 1)^3 in float64: (n, m)."""
    base = x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1
    return base * base * base  # much faster than a power


def _within(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean kernel over pairs of different images; NaN where a single image has all the weight."""
    squares = (x.astype(np.float64) ** 2).sum(axis=1)
    itself = weights**2 @ (squares / x.shape[1] + 1) ** 3
    pairs = 1 - (weights**2).sum(axis=1)
    found = _across(x, x, weights, weights) - itself
    return np.divide(found, pairs, out=np.full_like(found, np.nan), where=pairs > 1e-12)


def _across(x: np.ndarray, y: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """Sum of x_weights[r, i] * y_weights[r, j] * kernel(x_i, y_j) over i and j: (resamples,)."""
    total = np.zeros(len(x_weights))
    for rows, columns in product(list(blocks(len(x))), list(blocks(len(y)))):
        kernel = cubic_kernel(x[rows], y[columns])
        total += (x_weights[:, rows] * (y_weights[:, columns] @ kernel.T)).sum(axis=1)
    return total


def blocks(num: int, size: int = _ROWS) -> Iterator[slice]:
    """The places of `num` images, `size` at a time."""
    yield from (slice(start, min(start + size, num)) for start in range(0, num, size))

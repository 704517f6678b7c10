"""Distances between two sets of features, each image with a weight: FID and KID."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import scipy.linalg

_ROWS = 2048
"""Images that are computed with at once: a kernel of this many by as many is the largest that KID makes."""


def effective_size(weights: np.ndarray) -> float:
    """Kish's effective number of images, (sum w)^2 / sum w^2: n for equal weights, fewer for unequal ones."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0


def moments(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean (width,) and unbiased covariance (width, width) of features (n, width), in float64.

    `weights` (n,) are not negative and need not sum to 1; the sum of squares is divided by 1 - sum w^2 (n - 1 of n
    for equal weights). Images of weight 0 cost nothing.
    """
    kept = np.flatnonzero(weights)
    shares = weights[kept] / weights[kept].sum()
    mean = sum(shares[rows] @ features[kept[rows]].astype(np.float64) for rows in _blocks(len(kept)))
    covariance = np.zeros((features.shape[1],) * 2)
    for rows in _blocks(len(kept)):
        centred = features[kept[rows]].astype(np.float64) - mean
        covariance += (shares[rows, None] * centred).T @ centred
    return np.asarray(mean), covariance / (1 - (shares**2).sum())


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians: |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    Heusel et al. 2017, arXiv 1706.08500, equation 6. With A = F F', A B has the eigenvalues of the symmetric F' B F,
    so the trace of its root is the sum of their roots; no root of a matrix is taken.
    """
    factor = _factor(cov_a)
    eigenvalues = scipy.linalg.eigvalsh(factor.T @ cov_b @ factor)
    root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def fid(x: np.ndarray, y: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to features x (n, width) and y (m, width). Biased upwards, as 1/n."""
    return frechet(*moments(x, x_weights), *moments(y, y_weights))


def kid(x: np.ndarray, y: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """Unbiased squared maximum mean discrepancy of x (n, width) and y (m, width); it may be below 0.

    Binkowski et al. 2018, arXiv 1801.01401: the kernel (x.y / width + 1)^3, an image never paired with itself. Weights
    are (..., n) and (..., m), resamples first; each kernel is computed once for all of them. Returns shape (...).
    """
    a, b = (np.atleast_2d(w) / w.sum(axis=-1, keepdims=True) for w in (x_weights, y_weights))
    found = _within(x, a) + _within(y, b) - 2 * _across(x, y, a, b)
    return found.reshape(x_weights.shape[:-1])


def _within(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean kernel over pairs of different images."""
    squares = (x.astype(np.float64) ** 2).sum(axis=1)
    itself = weights**2 @ (squares / x.shape[1] + 1) ** 3
    return (_across(x, x, weights, weights) - itself) / (1 - (weights**2).sum(axis=1))


def _across(x: np.ndarray, y: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """Sum of x_weights[r, i] * y_weights[r, j] * kernel(x_i, y_j) over i and j: (resamples,)."""
    total = np.zeros(len(x_weights))
    for rows, columns in product(list(_blocks(len(x))), list(_blocks(len(y)))):
        base = x[rows].astype(np.float64) @ y[columns].astype(np.float64).T / x.shape[1] + 1
        kernel = base * base * base  # much faster than a power
        total += (x_weights[:, rows] * (y_weights[:, columns] @ kernel.T)).sum(axis=1)
    return total


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with F F' = covariance: Cholesky's, or of the eigenvectors where features without variance make it singular."""
    try:
        return np.asarray(scipy.linalg.cholesky(covariance, lower=True))
    except np.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)))


def _blocks(num: int) -> Iterator[slice]:
    yield from (slice(start, min(start + _ROWS, num)) for start in range(0, num, _ROWS))

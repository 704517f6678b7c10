"""Precision, recall, density and coverage of synthetic among real features, without a matrix of all pairs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_ROWS = 1024
"""Distances of this many images to as many others are the most that is held at once."""


@dataclass(frozen=True)
class Prdc:
    """All four; precision, recall and coverage lie in 0..1, density is about 1 where both sides are alike."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: np.ndarray, synthetic: np.ndarray, neighbours: int) -> Prdc:
    """Of features real (n, width) and synthetic (m, width); both sides must have more than `neighbours` images.

    An image's ball reaches to its k-th nearest neighbour of its own side. Precision: synthetic images in some real
    ball; recall: real ones in some synthetic ball (Kynkaanniemi et al. 2019, arXiv 1904.06991). Density: real balls
    that a synthetic image is in, over k; coverage: real balls with a synthetic image (Naeem et al. 2020, arXiv
    2002.09797).
    """
    x, y = real.astype(np.float64), synthetic.astype(np.float64)
    x_radii, y_radii = (_radii(side, neighbours) for side in (x, y))
    num_balls = np.zeros(len(y), int)
    is_reached, nearest = np.zeros(len(x), bool), np.full(len(x), np.inf)
    for rows in _blocks(len(x)):
        for columns in _blocks(len(y)):
            distances = _distances(x[rows], y[columns])
            num_balls[columns] += (distances < x_radii[rows, None]).sum(axis=0)
            is_reached[rows] |= (distances < y_radii[columns]).any(axis=1)
            nearest[rows] = np.minimum(nearest[rows], distances.min(axis=1))
    return Prdc(
        precision=float((num_balls > 0).mean()),
        recall=float(is_reached.mean()),
        density=float(num_balls.mean() / neighbours),
        coverage=float((nearest < x_radii).mean()),
    )


def _radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each image to its k-th nearest other: (n,)."""
    radii = np.empty(len(x))
    for rows in _blocks(len(x)):
        near = np.full((rows.stop - rows.start, neighbours), np.inf)
        for columns in _blocks(len(x)):
            distances = _distances(x[rows], x[columns])
            if rows == columns:
                np.fill_diagonal(distances, np.inf)
            near = np.partition(np.concatenate([near, distances], axis=1), neighbours - 1, axis=1)[:, :neighbours]
        radii[rows] = near.max(axis=1)
    return radii


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, m)."""
    products = x @ y.T
    products *= -2
    products += (x**2).sum(axis=1)[:, None]
    products += (y**2).sum(axis=1)
    return np.maximum(products, 0, out=products)


def _blocks(num: int) -> Iterator[slice]:
    yield from (slice(start, min(start + _ROWS, num)) for start in range(0, num, _ROWS))

"""Precision, recall, density and coverage of synthetic among real features, without a matrix of all pairs.

Their spread is told by random halves of each side: a number of half of n images differs from that of all as the number
of n images differs from the truth (the delete-half jackknife of Shao and Wu 1989, Annals of Statistics 17, 1176). A
bootstrap would not do: an image that is drawn twice is its own nearest neighbour.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from cxr_core.evaluation.pairs import Distances, Rows
from cxr_core.seeds import derive_seed

_HITS = 1 << 21
"""Near pairs times halves that are looked at together."""


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
    (whole,) = prdc_of_halves(real, synthetic, neighbours, 0, 0)
    return whole


def prdc_of_halves(real: np.ndarray, synthetic: np.ndarray, neighbours: int, num: int, seed: int) -> list[Prdc]:
    """Of all images, then of `num` random halves of both sides; a half must have more than `neighbours` images."""
    generator = np.random.default_rng(derive_seed(seed, "halves"))
    x, y = (_Side.of(side, neighbours, with_halves(len(side), num, generator)) for side in (real, synthetic))
    num_balls = np.zeros(y.chosen.shape, np.float32)
    is_covered, is_recalled = np.zeros(x.chosen.shape, bool), np.zeros(x.chosen.shape, bool)
    for rows in x.features.blocks():
        for columns in y.features.blocks():
            distances = x.features.distances(rows, y.features, columns)
            for i, j, hits in _hits(distances, x.radii[rows], rows=True):
                num_balls[columns] += _sums(j, hits, distances.shape[1])
                is_covered[rows] |= _sums(i, hits & y.chosen[columns][j], distances.shape[0]) > 0
            for i, _, hits in _hits(distances, y.radii[columns], rows=False):
                is_recalled[rows] |= _sums(i, hits, distances.shape[0]) > 0
    precision, balls = (_means(found, y.chosen) for found in (num_balls > 0, num_balls))
    recall, coverage = (_means(found, x.chosen) for found in (is_recalled, is_covered))
    return [Prdc(*map(float, each)) for each in zip(precision, recall, balls / neighbours, coverage, strict=True)]


@dataclass(frozen=True)
class _Side:
    """Features; which images are of all and of each half, (n, 1 + halves), and the squared radii of their
    balls there, -1 of an image that is not chosen."""

    features: Rows
    chosen: np.ndarray
    radii: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, neighbours: int, chosen: np.ndarray) -> "_Side":
        x = Rows.of(features)
        # So many that among them are as many as asked for of any half, but once in a million millions.
        deep = neighbours if chosen.shape[1] == 1 else min(len(x) - 1, 12 * neighbours + 30)
        distances, places = _nearest(x, deep)
        radii = np.full(chosen.shape, -1.0)
        for half, is_in in enumerate(chosen.T):
            before = (np.cumsum(is_in[places[is_in]], axis=1) < neighbours).sum(axis=1)
            last = np.minimum(before, deep - 1)[:, None]
            radii[is_in, half] = np.take_along_axis(distances[is_in], last, axis=1)[:, 0]
        return cls(x, chosen, radii)


def with_halves(num_images: int, num: int, generator: np.random.Generator) -> np.ndarray:
    """Which images are of all and of each random half: (n, 1 + num)."""
    halves = np.tile(np.arange(num_images) < num_images // 2, (num, 1))
    return np.concatenate([np.ones((1, num_images), bool), generator.permuted(halves, axis=1)]).T


def _nearest(x: Rows, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and places of the `num` others nearest to each image, nearest first: (n, num) each."""
    found, places = np.empty((len(x), num)), np.empty((len(x), num), np.int32)
    for rows in x.blocks():
        near = np.full((rows.stop - rows.start, num), np.inf)
        which = np.full(near.shape, -1, np.int32)
        for columns in x.blocks():
            distances = x.distances(rows, x, columns)
            if rows == columns:
                distances.leave_out_itself()
            some, nearest = distances.smallest(num)
            near = np.hstack([near, some])
            which = np.hstack([which, columns.start + nearest])
            near, kept = Distances(near).smallest(num)
            which = np.take_along_axis(which, kept, axis=1)
        order = np.argsort(near, axis=1)
        found[rows], places[rows] = (np.take_along_axis(part, order, axis=1) for part in (near, which))
    return found, places


def _hits(
    distances: Distances, radii: np.ndarray, *, rows: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs (i, j) of which one image is in the ball of the other in any half, and in which: bool (pairs, halves).

    The balls are those of the images in the `rows` of the distances, or in the columns.
    """
    most = radii.max(axis=1)
    i, j, found = distances.below(most[:, None] if rows else most)
    step = max(1, _HITS // radii.shape[1])
    for start in range(0, len(i), step):
        some = slice(start, start + step)
        yield i[some], j[some], found[some, None] < radii[i[some] if rows else j[some]]


def _sums(places: np.ndarray, hits: np.ndarray, num: int) -> np.ndarray:
    """How many hits each of `num` images has in each half: (num, halves)."""
    pairs = len(places)
    belongs = scipy.sparse.csr_array((np.ones(pairs, np.float32), (places, np.arange(pairs))), shape=(num, pairs))
    return np.asarray(belongs @ hits.astype(np.float32))


def _means(found: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Over the chosen images of each half: (halves,)."""
    return (found * chosen).sum(axis=0, dtype=np.float64) / chosen.sum(axis=0)

"""KID of two samples of one mix: its definition, and that it is 0 on average where nothing differs."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from cxr_core.evaluation.distances import cubic_kernel, kid
from cxr_core.evaluation.mix import Sample
from cxr_core.evaluation.mix_kid import kid_in_mix

WIDTH = 3


def sample(
    sizes: tuple[int, ...], *, seed: int, apart: float = 3, images_a_patient: int = 1, likeness: float = 0.0
) -> Sample:
    """So many images of each cell, whose means lie `apart`; a patient's images share a part of what varies."""
    draw = np.random.default_rng(seed)
    cells = draw.permutation(np.repeat(np.arange(len(sizes)), sizes))
    groups = np.arange(len(cells)) // images_a_patient
    own, shared = draw.normal(size=(len(cells), WIDTH)), draw.normal(size=(len(cells), WIDTH))
    features = apart * cells[:, None] + likeness * shared[groups] + np.sqrt(1 - likeness**2) * own
    shares = np.array([0.5, 0.3, 0.2])[: len(sizes)]
    names = np.array([f"{seed}-{group}" for group in groups])
    return Sample(features.astype(np.float32), cells, np.arange(len(cells)), names, shares / shares.sum())


def test_given_two_samples_kid_equals_its_definition_pair_by_pair() -> None:
    a, b = sample((6, 5, 1), seed=0, images_a_patient=2), sample((4, 2, 7), seed=1)
    total = weight = 0.0
    for c, d in product(range(3), repeat=2):
        parts = []
        for x, y, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            kernel = cubic_kernel(x.features, y.features)
            pairs = [
                kernel[np.ix_((x.cells == c) & (x.groups == p), (y.cells == d) & (y.groups == q))].mean()
                for p in np.unique(x.groups[x.cells == c])
                for q in np.unique(y.groups[y.cells == d])
                if x is not y or p != q
            ]
            parts.append(sign * np.mean(pairs) if pairs else np.nan)
        if np.isfinite(parts).all():
            total += a.shares[c] * a.shares[d] * sum(parts)
            weight += a.shares[c] * a.shares[d]
    assert weight == pytest.approx(1 - 0.2**2)  # of the third cell there is one image
    assert kid_in_mix(a, b) == pytest.approx(total / weight)


def test_given_one_cell_of_different_patients_kid_is_that_of_the_whole() -> None:
    a, b = sample((40,), seed=0), sample((30,), seed=1)
    assert kid_in_mix(a, b) == pytest.approx(kid(a.features, b.features, np.ones(40), np.ones(30)))


def test_given_one_patient_alone_there_is_no_kid() -> None:
    assert np.isnan(kid_in_mix(sample((6,), seed=0, images_a_patient=6), sample((6,), seed=1)))


@pytest.mark.parametrize(
    ("how", "sign"), [({"apart": 3}, -1), ({"apart": 0, "images_a_patient": 6, "likeness": 0.95}, 1)]
)
def test_given_samples_of_one_distribution_kid_is_zero_on_average_and_that_by_weights_is_not(
    how: dict[str, Any], sign: int
) -> None:
    pairs = [(sample((30, 18, 12), seed=2 * i, **how), sample((12, 18, 30), seed=2 * i + 1, **how)) for i in range(200)]
    ours = np.array([kid_in_mix(a, b) for a, b in pairs])
    weighted = np.array([kid(a.features, b.features, a.weights(), b.weights()) for a, b in pairs])
    assert abs(ours.mean()) < 3 * ours.std() / np.sqrt(len(ours))
    assert sign * weighted.mean() > 5 * weighted.std() / np.sqrt(len(weighted))


def test_given_a_shift_of_one_side_kid_is_above_zero() -> None:
    a, b = sample((60, 40, 30), seed=0), sample((60, 40, 30), seed=1)
    moved = Sample(b.features + np.float32(1), b.cells, b.image_ids, b.groups, b.shares)
    assert kid_in_mix(a, moved) > 5 * abs(kid_in_mix(a, b))


def test_given_patients_of_many_images_and_of_few_kid_of_two_halves_is_zero_on_average() -> None:
    """Those of many are unlike the others, as patients are who come back."""
    draw = np.random.default_rng(5)
    sizes = np.repeat([1, 2, 12], [30, 15, 6])
    groups = np.repeat(np.arange(len(sizes)), sizes)
    middles = draw.normal(size=(len(sizes), WIDTH)) + np.log(sizes)[:, None]
    features = (middles[groups] + 0.2 * draw.normal(size=(len(groups), WIDTH))).astype(np.float32)
    names, cells = np.array([f"p{group}" for group in groups]), draw.integers(0, 2, len(groups))
    whole = Sample(features, cells, np.arange(len(groups)), names, np.array([0.6, 0.4]))
    found = []
    for _ in range(300):
        first = np.isin(groups, draw.permutation(len(sizes))[: len(sizes) // 2])
        found.append(kid_in_mix(whole.take(np.flatnonzero(first)), whole.take(np.flatnonzero(~first))))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))

"""FID and KID against closed forms, scipy and plain loops; weights that give both sides one mix."""

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.linalg

from cxr_core.data.findings import NIH
from cxr_core.evaluation.distances import Moments, effective_size, fid, frechet, kid
from cxr_core.evaluation.mix import Mix, cell_names, halves


def gaussian(num: int, width: int = 4, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num, width)) + shift).astype(np.float32)


def covariance(width: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(width, 2 * width))
    return root @ root.T / width


def test_given_gaussians_with_independent_features_the_distance_is_the_closed_form() -> None:
    mean, a, b = np.array([1.0, 2.0]), np.diag([4.0, 9.0]), np.diag([1.0, 25.0])
    assert frechet(np.zeros(2), a, mean, b) == pytest.approx(5 + (2 - 1) ** 2 + (3 - 5) ** 2)
    assert frechet(mean, a, mean, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("width", [3, 40])
def test_given_any_covariances_the_trace_equals_that_of_scipys_matrix_root(width: int) -> None:
    a, b = covariance(width, 1), covariance(width, 2)
    expected = np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet(np.zeros(width), a, np.zeros(width), b) == pytest.approx(expected, rel=1e-6)


def test_given_a_feature_that_never_varies_the_distance_is_that_of_the_others() -> None:
    x, y = gaussian(200), gaussian(200, seed=1, shift=0.5)
    ones = np.ones(200)
    padded = [np.concatenate([features, np.zeros((200, 1), np.float32)], axis=1) for features in (x, y)]
    assert fid(*padded, ones, ones) == pytest.approx(fid(x, y, ones, ones))


def test_given_whole_numbers_as_weights_the_mean_is_that_of_repeated_images() -> None:
    x = gaussian(50)
    times = np.random.default_rng(1).integers(0, 4, 50)
    found = Moments.of(x, times)
    np.testing.assert_allclose(found.mean, x.repeat(times, axis=0).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(Moments.of(x, np.ones(50)).covariance, np.cov(x.T), rtol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(x.T, aweights=times), rtol=1e-5)


def test_given_two_parts_of_a_set_their_moments_merge_into_those_of_the_whole() -> None:
    x, weights = gaussian(500), np.random.default_rng(1).random(500)
    whole = Moments.of(x, weights)
    merged = Moments.of(x[:120], weights[:120]).merged(Moments.of(x[120:], weights[120:]))
    np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-5, atol=1e-7)


def relu_features(num: int, width: int, *, seed: int, shift: float) -> np.ndarray:
    """Correlated and not negative, as those of a network after its last ReLU are."""
    generator = np.random.default_rng(seed)
    root = np.random.default_rng(99).normal(size=(width, width)) / width**0.5
    return np.maximum(generator.normal(size=(num, width)) @ root + shift, 0).astype(np.float32)


def test_given_features_fid_equals_scipys_root_on_the_published_formula_and_torchmetrics() -> None:
    x, y = relu_features(3000, 96, seed=1, shift=0.3), relu_features(2500, 96, seed=2, shift=0.4)
    ones = np.ones(3000)
    found = fid(x, y, ones, ones[:2500])
    a, b = (np.cov(features.astype(np.float64).T) for features in (x, y))
    apart = x.astype(np.float64).mean(axis=0) - y.astype(np.float64).mean(axis=0)
    published = apart @ apart + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert found == pytest.approx(published, rel=1e-6)
    assert found == pytest.approx(_torchmetrics_fid(x, y), rel=1e-6)


def _torchmetrics_fid(x: np.ndarray, y: np.ndarray) -> float:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_given(x.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    return float(metric.compute())


def _given(width: int) -> Any:
    """A network that gives what it is given: torchmetrics takes features so."""
    import torch

    network = torch.nn.Identity()
    network.num_features = width
    return network


def test_given_subsets_kid_equals_that_of_torchmetrics_on_the_same() -> None:
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = gaussian(300, 16), gaussian(260, 16, seed=1, shift=0.5)
    metric = KernelInceptionDistance(feature=_given(16), subsets=20, subset_size=100)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    torch.manual_seed(3)
    mean, deviation = metric.compute()
    torch.manual_seed(3)
    pairs = [tuple(torch.randperm(n)[:100].numpy() for n in (300, 260)) for _ in range(20)]
    found = np.array([kid(x[a], y[b], np.ones(100), np.ones(100)) for a, b in pairs])
    assert found.mean() == pytest.approx(float(mean), rel=1e-4)
    assert found.std() == pytest.approx(float(deviation), rel=1e-3)


def test_given_weights_kid_equals_a_double_loop_over_different_images() -> None:
    x, y = gaussian(7), gaussian(6, seed=1, shift=1)
    generator = np.random.default_rng(2)
    a, b = generator.random((3, 7)), generator.random((3, 6))

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        return (float(one.astype(float) @ other.astype(float)) / 4 + 1) ** 3

    def mean(pairs: list[tuple[float, float]]) -> float:
        return sum(w * k for w, k in pairs) / sum(w for w, _ in pairs)

    for r in range(3):
        xx = mean([(a[r, i] * a[r, j], kernel(x[i], x[j])) for i in range(7) for j in range(7) if i != j])
        yy = mean([(b[r, i] * b[r, j], kernel(y[i], y[j])) for i in range(6) for j in range(6) if i != j])
        xy = mean([(a[r, i] * b[r, j], kernel(x[i], y[j])) for i in range(7) for j in range(6)])
        assert kid(x, y, a, b)[r] == pytest.approx(xx + yy - 2 * xy)
        assert kid(x, y, a[r], b[r]) == pytest.approx(xx + yy - 2 * xy)


def test_given_sets_of_one_distribution_kid_is_zero_on_average_and_fid_is_not() -> None:
    ones = np.ones(60)
    pairs = [(gaussian(60, seed=2 * i), gaussian(60, seed=2 * i + 1)) for i in range(100)]
    found = np.array([kid(x, y, ones, ones) for x, y in pairs])
    assert abs(found.mean()) < 3 * found.std() / 10
    assert np.mean([fid(x, y, ones, ones) for x, y in pairs]) > 0.1


def test_given_ten_thousand_images_no_matrix_of_all_pairs_is_made() -> None:
    num = 10_000
    x, ones = gaussian(num, 2), np.ones(num)
    tracemalloc.start()
    found = kid(x, x, ones, ones), fid(x, x, ones, ones)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e8  # all pairs would take 8e8 bytes
    assert found[1] == pytest.approx(0, abs=1e-6)


def test_given_equal_weights_all_images_count_and_given_one_heavy_image_few_do() -> None:
    assert effective_size(np.full(10, 0.3)) == pytest.approx(10)
    assert effective_size(np.array([1.0, 0, 0])) == pytest.approx(1)


def rows(cells: dict[tuple[str, str], int], *, prefix: str = "i", images_a_patient: int = 1) -> pd.DataFrame:
    """So many images of each (finding, view)."""
    each = [(NIH.bit(name), view) for (name, view), num in cells.items() for _ in range(num)]
    table = pd.DataFrame(each, columns=["labels", "view"])
    table["image_id"] = [f"{prefix}{i:05d}" for i in range(len(table))]
    table["patient_id"] = [f"p{i // images_a_patient:05d}" for i in range(len(table))]
    return table


ODD = {("Edema", "AP"): 300, ("No Finding", "PA"): 100}
EVEN = {("Edema", "AP"): 150, ("No Finding", "PA"): 450}


def planted(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Features that differ by cell and by nothing else."""
    return gaussian(len(table), seed=seed) + 3 * (table[["labels"]].to_numpy() > 0).astype(np.float32)


def test_given_sets_that_differ_in_mix_alone_reweighting_makes_them_equal() -> None:
    synthetic, real = rows(ODD), rows(EVEN, prefix="r")
    mix = Mix.of(synthetic, [real])
    x = mix.sample(synthetic, planted(synthetic, 1), synthetic["image_id"])
    y = mix.sample(real, planted(real, 2), real["patient_id"])
    unmatched = fid(x.features, y.features, np.ones(len(x)), np.ones(len(y)))
    matched = fid(x.features, y.features, x.weights(), y.weights())
    assert unmatched > 5
    assert matched < 0.2
    assert y.weights()[:150].sum() == pytest.approx(0.75)
    assert y.effective == pytest.approx(1 / (0.75**2 / 150 + 0.25**2 / 450))


def test_given_cells_that_the_reference_lacks_they_are_named_and_left_out_of_both_sides() -> None:
    synthetic = rows({("Edema", "PA"): 7, ("Edema", "AP"): 63, ("No Finding", "PA"): 30})
    real = rows({("Edema", "AP"): 5, ("No Finding", "PA"): 5, ("Hernia", "PA"): 5}, prefix="r")
    mix = Mix.of(synthetic, [real])
    assert mix.coverage == pytest.approx(0.93)
    assert cell_names(mix.lacking, NIH) == ["Edema PA"]
    assert len(mix.sample(synthetic, gaussian(100), synthetic["image_id"])) == 93
    assert len(mix.sample(real, gaussian(15), real["patient_id"])) == 10


def test_given_resamples_each_has_the_mix_and_a_missed_cell_leaves_its_share() -> None:
    table = rows({("Edema", "AP"): 2, ("No Finding", "PA"): 2})
    sample = Mix.of(table, []).sample(table, gaussian(4), table["patient_id"])
    weights = sample.weights(np.array([[1, 3, 2, 0], [0, 0, 1, 1]]))
    np.testing.assert_allclose(weights, [[0.125, 0.375, 0.5, 0], [0, 0, 0.5, 0.5]])


def test_given_a_smaller_size_thinning_and_strata_come_near_it_and_keep_the_mix() -> None:
    synthetic, real = rows(ODD), rows(EVEN, prefix="r", images_a_patient=3)
    mix = Mix.of(synthetic, [real])
    y = mix.sample(real, planted(real, 2), real["patient_id"]).thinned(100, seed=1)
    assert y.effective == pytest.approx(100, abs=3)
    assert y.weights()[y.cells == y.cells.max()].sum() == pytest.approx(0.75)
    x = mix.sample(synthetic, planted(synthetic, 1), synthetic["image_id"]).stratified(40, seed=1)
    assert np.bincount(x.cells).tolist() == [10, 30]
    other = mix.sample(synthetic, planted(synthetic, 1), synthetic["image_id"]).stratified(40, seed=2)
    assert set(x.image_ids) != set(other.image_ids)


def test_given_patients_halves_share_none_and_do_not_depend_on_the_order_of_rows() -> None:
    table = rows(EVEN, images_a_patient=3)
    first, second = halves(table["patient_id"], seed=4)
    assert not set(table["patient_id"][first]) & set(table["patient_id"][second])
    assert (first.sum(), second.sum()) == (300, 300)
    turned = halves(table["patient_id"][::-1], seed=4)[0]
    np.testing.assert_array_equal(first[::-1], turned)


@pytest.mark.parametrize(("num", "width", "decay"), [(500, 512, 1.0), (2000, 256, 2.0), (100, 768, 1.0)])
def test_given_features_that_hardly_vary_in_most_directions_fid_is_that_of_singular_values(
    num: int, width: int, decay: float
) -> None:
    random = np.random.default_rng(0)
    turned = np.linalg.qr(random.standard_normal((width, width)))[0] * (np.arange(width) + 1.0)[:, None] ** -decay
    x, y = (random.standard_normal((num, width)) @ turned + at for at in (1.0, 1.01))
    x, y = x.astype(np.float32), y.astype(np.float32)
    around = [side.astype(np.float64) - side.mean(axis=0, dtype=np.float64) for side in (x, y)]
    apart = x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)
    roots = np.linalg.svd(around[0] @ around[1].T, compute_uv=False).sum()
    exact = np.square(apart).sum() + (sum(np.square(side).sum() for side in around) - 2 * roots) / (num - 1)
    assert fid(x, y, np.ones(num), np.ones(num)) == pytest.approx(exact, rel=2e-5)


@pytest.mark.parametrize("rank", [0, 1, 3, 10])
@pytest.mark.parametrize("collapsed", ["one", "both"])
def test_given_sets_that_collapsed_to_few_directions_fid_is_that_of_singular_values(rank: int, collapsed: str) -> None:
    def drawn(rank: int, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        turned = random.standard_normal((max(rank, 1), 128)) * (rank > 0)
        return (random.standard_normal((600, max(rank, 1))) @ turned + seed).astype(np.float32)

    x, y = drawn(rank, 1), drawn(rank if collapsed == "both" else 128, 2)
    around = [side.astype(np.float64) - side.mean(axis=0, dtype=np.float64) for side in (x, y)]
    apart = x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)
    roots = np.linalg.svd(around[0] @ around[1].T, compute_uv=False).sum()
    exact = np.square(apart).sum() + (sum(np.square(side).sum() for side in around) - 2 * roots) / 599
    ones = np.ones(600)
    assert fid(x, y, ones, ones) == pytest.approx(exact, rel=2e-6)
    assert fid(y, x, ones, ones) == pytest.approx(exact, rel=2e-6)


@pytest.mark.filterwarnings("error")
def test_given_weight_on_a_single_image_there_is_no_distance() -> None:
    x, ones, single = gaussian(6), np.ones(6), np.eye(6)[0]
    assert np.isnan(fid(x, x, single, ones))
    assert np.isnan(kid(x, x, np.stack([single, ones]), np.stack([ones, ones]))).tolist() == [True, False]

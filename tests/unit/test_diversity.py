"""Precision, recall, density, coverage and MS-SSIM against published implementations, and on planted truths."""

import tracemalloc

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from cxr_core.evaluation.diversity.msssim import _SHARES, ms_ssim, scales_of
from cxr_core.evaluation.diversity.prdc import prdc


def gaussian(num: int, width: int = 6, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num, width)) + shift).astype(np.float32)


@pytest.mark.parametrize("num", [(60, 60), (1100, 1050)])
def test_given_any_two_sets_all_four_equal_the_published_implementation(num: tuple[int, int]) -> None:
    real, synthetic = gaussian(num[0]), gaussian(num[1], seed=1, shift=0.4)
    expected = compute_prdc(real, synthetic, nearest_k=5)
    assert vars(prdc(real, synthetic, 5)) == pytest.approx(expected, abs=1e-12)


def test_given_a_model_that_draws_one_image_again_and_again_recall_and_coverage_fall_and_precision_does_not() -> None:
    real, other = gaussian(400), gaussian(400, seed=1)
    collapsed = np.repeat(other[:8], 50, axis=0) + gaussian(400, seed=2) * np.float32(0.01)
    good, bad = prdc(real, other, 5), prdc(real, collapsed, 5)
    assert good.recall > 0.7
    assert bad.recall < 0.1
    assert good.coverage > 0.9
    assert bad.coverage < 0.3
    assert bad.precision > 0.5


def test_given_six_thousand_images_no_matrix_of_all_pairs_is_made() -> None:
    real = gaussian(6000, 2)
    tracemalloc.start()
    prdc(real, real[::-1], 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e7  # all pairs would take 2.9e8 bytes


@pytest.mark.parametrize(("size", "num_scales"), [(32, 2), (64, 3), (128, 4), (192, 5)])
def test_given_pairs_of_images_ms_ssim_equals_torchmetrics(size: int, num_scales: int) -> None:
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (3, size, size), np.uint8)
    b = np.clip(a + generator.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    shares = tuple(np.array(_SHARES[:num_scales]) / sum(_SHARES[:num_scales]))
    x, y = (torch.from_numpy(images)[:, None].float() / 255 for images in (a, b))
    expected = multiscale_structural_similarity_index_measure(x, y, data_range=1.0, betas=shares, reduction="none")
    assert scales_of(size) == num_scales
    np.testing.assert_allclose(ms_ssim(a, b), expected, rtol=1e-5)


def test_given_equal_images_ms_ssim_is_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    np.testing.assert_allclose(ms_ssim(images, images), 1, rtol=1e-6)

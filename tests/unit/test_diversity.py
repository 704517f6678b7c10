"""Precision, recall, density, coverage and MS-SSIM against published implementations, and on planted truths."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from prdc import compute_prdc
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from cxr_core.evaluation.diversity.alike import cell_groups, measure_alike, prompt_groups
from cxr_core.evaluation.diversity.msssim import _SHARES, ms_ssim, scales_of
from cxr_core.evaluation.diversity.prdc import prdc, prdc_of_halves, with_halves
from cxr_core.evaluation.diversity.settings import Diversity
from cxr_core.evaluation.diversity.spread import beside_floor, matched, spread
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.seeds import derive_seed

SHARES = ("precision", "recall", "density", "coverage")


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


def test_the_numbers_of_a_half_are_those_of_its_images_alone() -> None:
    real, synthetic = gaussian(301), gaussian(260, seed=1, shift=0.4)
    whole, *halves = prdc_of_halves(real, synthetic, 3, 4, seed=5)
    assert whole == prdc(real, synthetic, 3)
    generator = np.random.default_rng(derive_seed(5, "halves"))
    chosen = [with_halves(len(side), 4, generator)[:, 1:] for side in (real, synthetic)]
    assert [each.sum(axis=0).tolist() for each in chosen] == [[150] * 4, [130] * 4]
    for half, a, b in zip(halves, chosen[0].T, chosen[1].T, strict=True):
        assert vars(half) == pytest.approx(vars(prdc(real[a], synthetic[b], 3)), abs=1e-12)


def test_intervals_hold_what_other_patients_and_other_synthetic_images_would_have_given() -> None:
    draws = [(gaussian(120, seed=2 * i), gaussian(120, seed=2 * i + 1, shift=0.5)) for i in range(80)]
    truth = {name: np.mean([getattr(prdc(*sides, 5), name) for sides in draws]) for name in SHARES}
    found = [spread(sides, Diversity(num_resamples=60), seed=3) for sides in draws[:40]]
    for name in SHARES:
        each = [getattr(one, name) for one in found]
        assert np.mean([one.low <= truth[name] <= one.high for one in each]) >= 0.85, name


def featured(features: np.ndarray, name: str) -> FeatureRows:
    ids = [f"{name}{i:04d}" for i in range(len(features))]
    patients = [""] * len(ids) if name == "synthetic" else ids
    rows = pd.DataFrame({"image_id": ids, "patient_id": patients, "labels": 0, "view": "PA"})
    return FeatureRows(rows, features)


def test_given_a_model_that_draws_few_images_its_recall_and_coverage_lie_below_the_floor_with_their_intervals() -> None:
    held_out, good = featured(gaussian(400), "real"), featured(gaussian(400, seed=1), "synthetic")
    few = np.repeat(good.features[:8], 50, axis=0) + gaussian(400, seed=2) * np.float32(0.01)
    collapsed, floor = beside_floor(held_out, featured(few, "synthetic"), Diversity(), seed=1)
    honest, same_floor = beside_floor(held_out, good, Diversity(), seed=1)
    assert floor == same_floor
    for name in ("recall", "coverage"):
        bad, other, real = (getattr(each, name) for each in (collapsed, honest, floor))
        assert bad.high < real.low, name
        assert other.low <= real.high, name
        assert real.low <= other.high, name


def test_given_all_images_near_a_real_one_the_interval_does_not_say_that_none_is_ever_far() -> None:
    real = gaussian(60)
    found = spread([real, real * np.float32(0.5)], Diversity(), seed=1).precision
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.93 < found.low < 0.97


def test_given_six_thousand_images_no_matrix_of_all_pairs_is_made() -> None:
    real = gaussian(6000, 2)
    tracemalloc.start()
    prdc_of_halves(real, real[::-1], 5, 100, seed=0)
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


def rows(prompts: dict[str, int], *, view: str = "PA") -> pd.DataFrame:
    """So many images of each prompt; its first letter is its label."""
    names = [name for name, num in prompts.items() for _ in range(num)]
    ids = [f"i{i:04d}" for i in range(len(names))]
    labels = [ord(name[0]) for name in names]
    return pd.DataFrame({"image_id": ids, "patient_id": ids, "prompt": names, "labels": labels, "view": view})


def test_given_prompts_of_many_and_of_few_images_whole_fours_are_taken_of_every_prompt_first() -> None:
    fours = prompt_groups(rows({"a": 13, "b": 4, "c": 3}), 100, seed=1)
    assert fours.groupby("group")["labels"].first().value_counts().to_dict() == {ord("a"): 3, ord("b"): 1}
    assert (fours["group"].value_counts() == 4).all()
    few = prompt_groups(rows({"a": 13, "b": 4, "c": 3}), 2, seed=1)
    assert sorted(few.groupby("group")["labels"].first()) == [ord("a"), ord("b")]


def test_given_synthetic_fours_real_ones_are_of_the_same_cells_and_of_different_patients() -> None:
    like = prompt_groups(rows({"a": 8, "b": 4}), 100, seed=1)
    real = rows({"a": 40, "b": 40, "c": 40})
    real["patient_id"] = [f"p{i // 2}" for i in range(len(real))]
    fours = cell_groups(real, like, seed=1)
    assert fours.groupby("group")["labels"].first().value_counts().to_dict() == {ord("a"): 2, ord("b"): 1}
    patients = real.set_index("image_id").loc[fours["image_id"], "patient_id"]
    assert patients.is_unique


def test_given_another_mix_and_several_images_a_patient_both_sides_get_one_n_and_one_mix() -> None:
    real, drawn = rows({"a": 60, "b": 10}), rows({"a": 5, "b": 50, "c": 9}).assign(patient_id="")
    real["patient_id"] = [f"p{i // 2}" for i in range(len(real))]
    sides = [FeatureRows(table, table[["labels"]].to_numpy(np.float32)) for table in (real, drawn)]
    for features in matched(sides, seed=1):
        assert np.unique(features, return_counts=True)[1].tolist() == [5, 5]


def test_given_too_few_images_there_is_no_share_but_the_reason() -> None:
    found = spread([gaussian(12), gaussian(12)], Diversity(), seed=1)
    assert found.recall is None
    assert found.not_computed == "n = 12, 50 are needed (10 x k)"


def test_given_groups_that_are_all_alike_then_ms_ssim_is_not_told_without_an_interval() -> None:
    table = pd.DataFrame({"group": list("abcdef"), "labels": 0, "ms_ssim": 1.0})
    found = measure_alike(table, 200, seed=1).ms_ssim
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(6 / (6 + 1.96**2), abs=1e-3)

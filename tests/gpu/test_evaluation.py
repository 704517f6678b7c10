"""Evaluation on a GPU beside the CPU, and the rows G4 and G5: `pytest -m gpu -s tests/gpu`, some minutes."""

from pathlib import Path

import faiss
import numpy as np
import prdc as published
import pytest
import torch

from cxr_core.data.neighbours import nearest, unit
from cxr_core.evaluation.diversity.prdc import prdc, prdc_of_halves
from cxr_core.evaluation.features import VisionFeatures
from tests.gpu.evaluation import g4, g5
from tests.gpu.rows import Bench
from tests.vision import small_vit

pytestmark = pytest.mark.gpu


def gaussian(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, 32), np.float32)


def test_given_more_images_than_a_block_precision_recall_density_and_coverage_are_the_published_ones() -> None:
    real, synthetic = gaussian(9000, 0), gaussian(8500, 1) * np.float32(1.1) + np.float32(0.1)
    assert vars(prdc(real, synthetic, 5)) == pytest.approx(published.compute_prdc(real, synthetic, 5), abs=2e-4)


def test_given_halves_they_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real, synthetic = gaussian(3000, 0), gaussian(2500, 1) * np.float32(1.1)
    there = prdc_of_halves(real, synthetic, 5, 20, seed=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = prdc_of_halves(real, synthetic, 5, 20, seed=3)
    assert [vars(each) for each in there] == [pytest.approx(vars(each), abs=1e-9) for each in here]


def test_given_several_blocks_neighbours_are_those_of_faiss() -> None:
    queries, references = unit(gaussian(9000, 2)), unit(gaussian(40_000, 3))
    similarity, places = nearest(queries, lambda: np.array_split(references, 3), 4)
    whole = faiss.IndexFlatIP(32)
    whole.add(references)
    expected, expected_places = whole.search(queries, 4)
    assert (places == expected_places).mean() > 0.9999  # nearly equal ones may change places
    np.testing.assert_allclose(similarity, expected, rtol=1e-5)


def test_given_a_vision_model_its_features_are_near_those_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_vit(tmp_path / "vit")
    images = np.random.default_rng(0).integers(0, 256, (16, 40, 40), np.uint8)

    def seen() -> np.ndarray:
        feature_model = VisionFeatures(folder)
        return feature_model.encode(np.stack([feature_model.preprocess(image) for image in images]))[0]

    there = seen()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = seen()
    assert np.linalg.norm(there - here) < 2e-3 * np.linalg.norm(here)


def test_g4_features_are_extracted_faster_than_in_a_loop(tmp_path: Path) -> None:
    product, one, many = g4(Bench(tmp_path, num_images=256))
    print("", product.line(), one.line(), many.line(), sep="\n")
    assert product.images_per_second >= 5 * one.images_per_second
    assert product.images_per_second >= 3 * many.images_per_second


def test_g5_all_measures_of_features_are_computed_faster_than_their_pieces(tmp_path: Path) -> None:
    product, pieces = g5(Bench(tmp_path))
    print("", product.line(), pieces.line(), sep="\n")
    assert pieces.seconds >= 5 * product.seconds

"""The rows G4 and G5: `pytest -m gpu -s tests/gpu`, some minutes."""

from pathlib import Path

import pytest

from tests.gpu.evaluation import g4, g5
from tests.gpu.rows import Bench

pytestmark = pytest.mark.gpu


def test_g4_features_are_extracted_faster_than_in_a_loop(tmp_path: Path) -> None:
    product, one, many = g4(Bench(tmp_path, num_images=256))
    print("", product.line(), one.line(), many.line(), sep="\n")
    assert product.images_per_second >= 5 * one.images_per_second
    assert product.images_per_second >= 3 * many.images_per_second


def test_g5_all_measures_of_features_are_computed_faster_than_their_pieces(tmp_path: Path) -> None:
    product, pieces = g5(Bench(tmp_path))
    print("", product.line(), pieces.line(), sep="\n")
    assert pieces.seconds >= 5 * product.seconds

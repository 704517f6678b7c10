"""The benchmarks of tests/gpu, of nano size on the CPU for a moment: that they can run, not how fast."""

from pathlib import Path

import pytest

from cxr_core.models.presets import NANO, SD21_BASE
from tests.gpu.__main__ import main
from tests.gpu.evaluation import Sizes, g4, g5
from tests.gpu.generation import g2, g2b
from tests.gpu.rows import Bench, g1, g3
from tests.gpu.work import decode_gflop, encode_gflop, forward_gflop, train_gflop


def test_given_a_small_model_every_way_to_encode_is_measured(tmp_path: Path) -> None:
    product, loop = g3(Bench(tmp_path, NANO, "cpu", batch=4, num_images=4, warm=0, seconds=0))
    assert product.what.startswith("product")
    assert min(product.images_per_second, loop.images_per_second) > 0
    assert (tmp_path / "work" / "moments.npy").is_file()


def test_given_a_small_model_product_and_script_train(tmp_path: Path) -> None:
    bench = Bench(tmp_path, NANO, "cpu", batch=2, num_images=4, warm=0, seconds=0)
    product, script = g1(bench, ways=[False])
    assert product.tflops == pytest.approx(product.images_per_second * train_gflop(NANO) / 1000)
    assert script.images_per_second > 0
    assert "script" in script.line()


def test_given_a_small_model_product_and_pipelines_generate(tmp_path: Path) -> None:
    bench = Bench(tmp_path, NANO, "cpu", batch=2, num_images=4, warm=0, seconds=0)
    product, one, many = g2(bench, dtype="float32", steps=2, ways=[False], peer_batch=2)
    assert product.what.startswith("product")
    assert min(product.images_per_second, one.images_per_second, many.images_per_second) > 0
    assert (tmp_path / "shard" / "images.tar").is_file()


def test_given_a_small_model_writing_and_not_writing_are_measured(tmp_path: Path) -> None:
    bench = Bench(tmp_path, NANO, "cpu", batch=2, num_images=4, warm=0, seconds=0)
    writing, bare = g2b(bench, dtype="float32", steps=2, compiled=False)
    assert min(writing.images_per_second, bare.images_per_second) > 0
    assert "not writing" in bare.what


def test_given_a_small_vision_model_features_are_extracted_each_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path, device="cpu", batch=2, num_images=4, warm=0, seconds=0)
    rates = list(g4(bench, Sizes(width=8, layers=1, heads=2, side=28)))
    assert len(rates) == 3
    assert min(rate.images_per_second for rate in rates) > 0
    assert rates[0].tflops > 0


def test_given_few_features_both_ways_to_measure_them_find_the_same(tmp_path: Path) -> None:
    sizes = Sizes(width=8, num_features=300, subset=50, num_subsets=4)
    product, pieces = g5(Bench(tmp_path, device="cpu"), sizes)
    assert min(product.seconds, pieces.seconds) > 0


def test_given_a_model_of_full_size_its_work_is_counted() -> None:
    assert forward_gflop(SD21_BASE) > 100 * forward_gflop(NANO) > 0
    assert train_gflop(NANO) == pytest.approx(3 * forward_gflop(NANO), rel=0.1)
    assert min(encode_gflop(NANO), decode_gflop(NANO)) > 0


def test_given_a_row_that_is_not_there_the_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["G9"])
    told = capsys.readouterr().err
    assert "'G9'" in told
    assert all(row in told for row in ("G1", "G3", "G2", "G2b", "G4", "G5"))

"""Generation on a GPU, and the rows G2 and G2b: `pytest -m gpu -s tests/gpu`, some minutes."""

from pathlib import Path

import pytest
import torch

from tests.gpu.generation import g2, g2b
from tests.gpu.rows import Bench

pytestmark = pytest.mark.gpu


def test_g2_images_are_drawn_and_written_faster_than_by_the_pipeline(tmp_path: Path) -> None:
    eager, compiled, one, many = g2(Bench(tmp_path, num_images=128))
    print("", eager.line(), compiled.line(), one.line(), many.line(), sep="\n")
    best = max(eager.images_per_second, compiled.images_per_second)
    assert best >= 3.5 * one.images_per_second
    assert best >= 1.5 * many.images_per_second


def test_g2b_the_device_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    writing, bare = g2b(Bench(tmp_path, num_images=128))
    print("", writing.line(), bare.line(), sep="\n")
    assert writing.images_per_second >= 0.95 * bare.images_per_second


def test_given_a_batch_that_does_not_fit_it_is_halved_and_all_images_are_there(tmp_path: Path) -> None:
    from cxr_core.generation.batches import draw_in_memory

    room = torch.cuda.get_device_properties(0).total_memory

    def draw(part):  # type: ignore[no-untyped-def]
        return torch.zeros(len(part), room // 4 // 5, device="cuda")[:, 0].cpu().numpy()

    images, size = draw_in_memory(draw, range(16), 16)
    assert len(images) == 16
    assert 1 <= size <= 4

"""Which images are sampled together, and what becomes of a batch for which memory is too short."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cxr_core.generation.batches import batches, draw_in_memory


def test_given_first_draws_batches_are_whole_but_the_last() -> None:
    assert list(batches([1, 2, 3, 4, 5], 2, is_redraw=False)) == [([1, 2], 2), ([3, 4], 2), ([5], 1)]


def test_given_redraws_the_last_batch_is_filled_up_with_the_first_rows_again() -> None:
    assert list(batches([1, 2, 3], 2, is_redraw=True)) == [([1, 2], 2), ([3, 1], 1)]
    assert list(batches([7], 4, is_redraw=True)) == [([7, 7, 7, 7], 1)]


def with_room_for(most: int, sizes: list[int], error: Exception):  # type: ignore[no-untyped-def]
    def draw(part: Sequence[int]) -> np.ndarray:
        sizes.append(len(part))
        if len(part) > most:
            raise error
        return np.array(part)

    return draw


def test_given_memory_for_three_a_batch_of_sixteen_is_drawn_in_parts_of_two() -> None:
    sizes: list[int] = []
    draw = with_room_for(3, sizes, torch.OutOfMemoryError("CUDA out of memory"))
    images, size = draw_in_memory(draw, range(16), 16)
    assert images.tolist() == list(range(16))
    assert size == 2
    assert sizes == [16, 8, 4, *[2] * 8]


def test_given_a_short_batch_halving_starts_from_its_own_size() -> None:
    draw = with_room_for(2, [], torch.OutOfMemoryError("CUDA out of memory"))
    assert draw_in_memory(draw, range(5), 16)[1] == 2


def test_given_no_memory_for_one_image_the_error_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        draw_in_memory(with_room_for(0, [], torch.OutOfMemoryError("CUDA out of memory")), range(4), 4)


def test_given_another_error_nothing_is_tried_again() -> None:
    sizes: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        draw_in_memory(with_room_for(0, sizes, RuntimeError("shapes do not fit")), range(4), 4)
    assert sizes == [4]


_SCARCE = """
import resource
from pathlib import Path
import torch
from cxr_core.generation.batches import draw_in_memory

torch.set_num_threads(1)
layer = torch.nn.Conv2d(1, 64, 3, padding=1)

def draw(part):
    with torch.inference_mode():
        return layer(torch.zeros(len(part), 1, 256, 256)).mean(dim=(1, 2, 3)).numpy()

draw(range(1))
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (600 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
images, size = draw_in_memory(draw, range(64), 64)
print(len(images), size)
"""


def test_given_an_address_space_that_is_too_small_torchs_own_error_halves_the_batch() -> None:
    done = subprocess.run([sys.executable, "-c", _SCARCE], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    number, size = map(int, done.stdout.split())
    assert number == 64
    assert 1 <= size < 64

"""Which images are sampled together. Fixed rules, so that an image's batch can be put together again years later."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from cxr_core.runs.causes import cause_of

T = TypeVar("T")


def batches(rows: Sequence[T], size: int, *, is_redraw: bool) -> Iterator[tuple[list[T], int]]:
    """Batches of `size` in the order of the rows, each with how many of it are wanted.

    The last batch of a shard's first draws may be short. Re-draws are always whole: their last batch is filled up with
    the first rows again, whose images are thrown away.
    """
    for start in range(0, len(rows), size):
        batch = list(rows[start : start + size])
        wanted = len(batch)
        if is_redraw:
            batch += [rows[i % len(rows)] for i in range(size - wanted)]
        yield batch, wanted


def in_parts(batch: Sequence[T], size: int) -> list[Sequence[T]]:
    """A batch cut into parts of at most `size`, which is smaller than planned where memory was short."""
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def draw_in_memory(draw: Callable[[Sequence[T]], np.ndarray], batch: Sequence[T], size: int) -> tuple[np.ndarray, int]:
    """Draw a batch in parts of `size`, or of half, a quarter ... of that where memory does not suffice.

    Returns the images and the size at which it did. Raises the error where one image is too much already.
    """
    while True:
        try:
            return np.concatenate([draw(part) for part in in_parts(batch, size)]), size
        except (RuntimeError, MemoryError) as error:
            if size == 1 or cause_of(error) != "out of memory":
                raise
        # Not in the handler: the error holds the frames and so the tensors that there is no room for.
        size = max(1, size // 2)
        while size >= len(batch) > 1:
            size //= 2
        torch.cuda.empty_cache()

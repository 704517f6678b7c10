"""Ten million images, ten million noises; `make proof TARGET=seeds`, some minutes."""

import numpy as np
import pytest

from cxr_core.generation.normal import standard_normal
from cxr_core.seeds import derive_seed, derive_seeds

pytestmark = pytest.mark.proof

NUM, AT_ONCE = 10_000_000, 100_000


def test_no_two_of_ten_million_images_start_from_one_noise() -> None:
    run = derive_seed(2023, "synthetic")
    names = (f"syn-{i:08d}" for i in range(NUM))
    seeds = derive_seeds((run,), names, (0,))
    first = np.empty((NUM, 4), np.float32)
    for start in range(0, NUM, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        first[part] = standard_normal(seeds[part].tolist(), (4,))
    num_seeds, num_low, num_first = (_num_different(each) for each in (seeds, seeds & 0xFFFFFFFF, first))
    print(f"\n{NUM:,} images: {num_seeds:,} seeds, of which {num_low:,} differ in their low 32 bits")
    print(f"{NUM - num_low:,} images would repeat a noise of mt19937; first numbers that differ: {num_first:,}")
    assert num_seeds == num_first == NUM
    assert NUM - num_low > 10_000


def _num_different(values: np.ndarray) -> int:
    """Of integers (n,), or of the bytes of rows (n, 4)."""
    rows = values if values.ndim == 1 else np.ascontiguousarray(values).view("V16")[:, 0]
    return len(np.unique(rows))

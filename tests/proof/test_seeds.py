"""Ten million images, ten million noises; `make proof TARGET=seeds`, a minute."""

import numpy as np
import pytest

from cxr_core.models.normal import inverse_cdf, standard_normal
from cxr_core.seeds import derive_seed, derive_seeds

pytestmark = pytest.mark.proof

NUM, AT_ONCE = 10_000_000, 100_000


def test_no_two_of_ten_million_images_start_from_one_noise() -> None:
    names = (f"syn-{i:08d}" for i in range(NUM))
    seeds = derive_seeds((derive_seed(2023, "synthetic"),), names, (0,))
    parts = (seeds[start : start + AT_ONCE] for start in range(0, NUM, AT_ONCE))
    first = np.concatenate([first_block(part)[0] for part in parts])
    num_seeds, num_low, num_first = (len(np.unique(each)) for each in (seeds, seeds & 0xFFFFFFFF, first))
    print(f"\n{NUM:,} images: {num_seeds:,} seeds, of which {num_low:,} differ in their low 32 bits")
    print(
        f"{NUM - num_low:,} images would repeat a noise of mt19937; first pairs of numbers that differ: {num_first:,}"
    )
    assert num_seeds == num_first == NUM
    assert NUM - num_low > 10_000
    # These are the integers that the suite draws from.
    some = seeds[:2000]
    halves = np.stack(first_block(some), axis=1).astype("<u8").view("<u4")
    wanted = inverse_cdf((halves + 0.5) / 2**32).astype(np.float32)
    assert np.array_equal(standard_normal(some.tolist(), (8,)), wanted)


def first_block(seeds: np.ndarray) -> list[np.ndarray]:
    """Of many seeds at once the first four integers of Philox 4x64 with ten rounds: four times uint64 (n,)."""
    key = [seeds.astype(np.uint64), np.zeros(len(seeds), np.uint64)]
    block = [np.full(len(seeds), number, np.uint64) for number in (1, 0, 0, 0)]
    for _ in range(10):
        (high, low), (other_high, other_low) = (
            _times(block[0], 0xD2E7470EE14C6C93),
            _times(block[2], 0xCA5A826395121157),
        )
        block = [other_high ^ block[1] ^ key[0], other_low, high ^ block[3] ^ key[1], low]
        key = [key[0] + np.uint64(0x9E3779B97F4A7C15), key[1] + np.uint64(0xBB67AE8584CAA73B)]
    return block


def _times(values: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The high and the low 64 bits of products."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, b = values >> half, values & mask
    c, d = np.uint64(factor >> 32), np.uint64(factor & 0xFFFFFFFF)
    middle = a * d + (b * d >> half)
    other = b * c + (middle & mask)
    return a * c + (middle >> half) + (other >> half), values * np.uint64(factor)

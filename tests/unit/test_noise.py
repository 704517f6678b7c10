"""Noise of seeds: all bits count, every machine gets the same numbers, and they are normal."""

import hashlib
from statistics import NormalDist

import numpy as np
import torch
from scipy.stats import kstest

from cxr_core.models.noise import open_noise
from cxr_core.models.normal import inverse_cdf, standard_normal
from cxr_core.models.solver_options import Noise
from cxr_core.seeds import derive_seed, derive_seeds

SHAPE = (4, 8, 8)


def num_different(seeds: list[int], noise: Noise) -> int:
    return len({each.numpy().tobytes() for each in open_noise(noise, seeds, SHAPE).draw()})


def test_given_seeds_that_differ_in_one_of_63_bits_all_have_another_noise() -> None:
    seeds = [0, *(1 << bit for bit in range(63))]
    assert num_different(seeds, "philox") == 64
    # What records of older versions mean: the low 32 bits alone.
    assert num_different(seeds, "mt19937") == 33


def test_given_100000_images_of_a_ready_config_those_of_equal_low_bits_have_another_noise() -> None:
    names = [f"syn-{i:08d}" for i in range(100_000)]
    seeds = derive_seeds((derive_seed(2023, "synthetic"),), names, (0,))
    assert len(np.unique(seeds)) == len(seeds)
    _, first, counts = np.unique(seeds & 0xFFFFFFFF, return_index=True, return_counts=True)
    alike = [seed for place in first[counts > 1] for seed in seeds[seeds & 0xFFFFFFFF == seeds[place] & 0xFFFFFFFF]]
    assert len(alike) >= 2
    assert num_different(alike, "mt19937") == len(alike) // 2
    assert num_different(alike, "philox") == len(alike)


def test_given_another_draw_or_another_batch_noise_is_a_function_of_seed_and_draw_alone() -> None:
    noise = open_noise("philox", [5, 6], SHAPE)
    first, second = noise.draw(), noise.draw()
    assert not torch.equal(first, second)
    alone = open_noise("philox", [6], SHAPE)
    assert torch.equal(alone.draw()[0], first[1])
    assert torch.equal(alone.draw()[0], second[1])


def test_given_a_seed_its_numbers_are_these_on_every_machine() -> None:
    drawn = standard_normal([2**62 + 1, 3], (4, 64, 64), 2)
    assert drawn.dtype == np.float32
    assert hashlib.sha256(drawn.astype("<f4").tobytes()).hexdigest() == GOLDEN


GOLDEN = "84196b8d1f18a8aac093dd5e65797ff8f9d7f23a48846a7a81a064e50fc14da1"


def test_numbers_are_of_a_standard_normal_distribution_without_links_between_seeds_or_draws() -> None:
    drawn = standard_normal(range(64), (4, 32, 32)).reshape(64, -1)
    assert kstest(drawn.ravel(), "norm").pvalue > 1e-3
    again = standard_normal(range(64), (4, 32, 32), 1).reshape(64, -1)
    links = np.corrcoef(np.concatenate([drawn, again])) - np.eye(128)
    assert np.abs(links).max() < 5 / np.sqrt(drawn.shape[1])


def test_the_inverse_of_the_distribution_is_right_from_the_middle_to_the_outermost_share_of_32_bits() -> None:
    shares = (np.concatenate([np.arange(500), np.arange(0, 2**31, 4_000_037)]) + 0.5) / 2**32
    wanted = np.array([NormalDist().inv_cdf(share) for share in shares])
    assert np.abs(inverse_cdf(shares) / wanted - 1).max() < 1e-13
    assert np.array_equal(inverse_cdf(1 - shares), -inverse_cdf(shares))

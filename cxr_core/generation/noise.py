"""Noise: each image has its own generator, so no image's noise depends on which others are in its batch."""

from collections.abc import Iterable, Sequence

import torch


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per image; the CPU's stream is the same on every machine, a GPU's is not."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def initial_latents(sources: Sequence[torch.Generator], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal float32 (num_images, channels, height, width): the first draw of each image's generator.

    What later steps of an ancestral sampler (DDPM) add comes from the same generators, in the order of the steps.
    """
    return torch.stack([torch.randn(shape, generator=source) for source in sources])

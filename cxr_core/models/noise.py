"""Noise: each image has its own seed, so no image's noise depends on which others are in its batch.

All of it is made on the CPU: a GPU's stream is not the same on every machine.
"""

from collections.abc import Iterable, Sequence

import torch

from cxr_core.models.normal import standard_normal
from cxr_core.models.solver_options import Noise


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """torch's generators, one a seed. mt19937 looks at the low 32 bits of a seed alone."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


class Philox:
    """All 63 bits of a seed decide its noise; see `standard_normal`."""

    def __init__(self, seeds: Iterable[int], shape: Sequence[int]) -> None:
        self._seeds, self._shape, self._num_drawn = list(seeds), shape, 0

    def draw(self) -> torch.Tensor:
        """The next standard normal numbers of each image: float32 (num_images, *shape)."""
        drawn = standard_normal(self._seeds, self._shape, self._num_drawn)
        self._num_drawn += 1
        return torch.from_numpy(drawn)


class Mt19937:
    """What images were drawn from whose record names no generator."""

    def __init__(self, seeds: Iterable[int], shape: Sequence[int]) -> None:
        self.sources, self._shape = generators(seeds), tuple(shape)

    def draw(self) -> torch.Tensor:
        """As of `Philox`."""
        return torch.stack([torch.randn(self._shape, generator=source) for source in self.sources])


def open_noise(name: Noise, seeds: Iterable[int], shape: Sequence[int]) -> Philox | Mt19937:
    """The noise of images with these seeds, of a `shape` each; the first draw is what they start from."""
    return Philox(seeds, shape) if name == "philox" else Mt19937(seeds, shape)

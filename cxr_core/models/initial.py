"""Random weights as a function of a seed."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialisers draw from torch's global generator: lend them a seeded one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

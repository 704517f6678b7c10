"""Seeds as hashes of what they are for, so that no draw depends on the order in which work happens to run."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that is a function of `parts` alone, e.g. (run seed, image id, draw)."""
    return int.from_bytes(hashlib.sha256(_text(parts).encode()).digest()[:8], "big") >> 1


def derive_seeds(before: Sequence[str | int], names: Iterable[str], after: Sequence[str | int]) -> np.ndarray:
    """`derive_seed(*before, name, *after)` for each name, int64, in a third of the time."""
    head, tail = f"{_text(before)}\x1fstr:", f"\x1f{_text(after)}"
    digests = b"".join([hashlib.sha256(f"{head}{name}{tail}".encode()).digest()[:8] for name in names])
    return (np.frombuffer(digests, ">u8") >> np.uint64(1)).astype(np.int64)


def unit_hash(*parts: str | int) -> float:
    """A number in [0, 1) that is a function of `parts` alone: for splits and draws that must never move."""
    return derive_seed(*parts) / 2**63


def _text(parts: Iterable[str | int]) -> str:
    return "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)

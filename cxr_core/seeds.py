"""Seeds as hashes of what they are for, so that no draw depends on the order in which work happens to run."""

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that is a function of `parts` alone, e.g. (run seed, image id, draw)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def unit_hash(*parts: str | int) -> float:
    """A number in [0, 1) that is a function of `parts` alone: for splits and draws that must never move."""
    return derive_seed(*parts) / 2**63

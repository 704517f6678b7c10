"""Paired benchmarks: peer and product alternate on the same inputs, and only the ratio of their times is reported."""

import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PAIRS = 7
SLOW_PAIRS, SLOW_SECONDS = 3, 5.0
"""Peers that take longer than this are timed in fewer pairs."""


@dataclass(frozen=True)
class Peer:
    """What a user would write instead. `target` and `ahead` are the ratios to reach; None: only for information.

    `part` is the share of the work that it is timed on, where all of it would take minutes.
    """

    name: str
    run: Callable[[], object]
    target: float | None = None
    ahead: float | None = None
    part: float = 1.0


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], object]) -> float:
    """The most that Python and numpy held at once beyond what was there before."""
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(peak)


@dataclass(frozen=True)
class Row:
    """One line of the table: the product, its peers, and a check that their outputs are equal where they must be."""

    id: str
    measure: str
    product: Callable[[], object]
    peers: tuple[Peer, ...]
    check: Callable[[], None] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None
    """For rows that promise a time and not a ratio: seconds of the product to reach, and to be ahead."""
    gauge: Callable[[Callable[[], object]], float] = _seconds
    """What is compared: seconds, or `peak_bytes`, which are the same each time and are taken once."""


@dataclass(frozen=True)
class Result:
    """Ratios peer / product of one row and one peer, above 1 where the product takes less."""

    id: str
    measure: str
    peer: str
    ratios: tuple[float, ...]
    product: float
    peer_took: float
    target: float | None
    ahead: float | None
    facts: Mapping[str, Any]
    seconds: tuple[float, float] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        if self.seconds is not None:
            target, ahead = self.seconds
            return "ahead" if self.product <= ahead else "target met" if self.product <= target else "BEHIND"
        if self.target is None or self.ahead is None:
            return "for information"
        return "ahead" if self.median >= self.ahead else "target met" if self.median >= self.target else "BEHIND"

    def line(self) -> str:
        wanted = "" if self.target is None else f"target {self.target:g}x, ahead {self.ahead:g}x: "
        if self.seconds is not None:
            wanted = f"{self.product:.3f} s, target {self.seconds[0]:g} s, ahead {self.seconds[1]:g} s: "
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}, {len(self.ratios)} pairs"
        return f"{self.id:<4} {self.median:6.2f}x ({spread})  {wanted}{self.verdict}  | {self.measure} | {self.peer}"

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"median": round(self.median, 3), "verdict": self.verdict}


def measure(row: Row) -> list[Result]:
    """Check the row, then measure the product beside each peer, in turns of who goes first."""
    row.product()
    warm = [_seconds(peer.run) for peer in row.peers]
    if row.check:
        row.check()
    if row.gauge is not _seconds:
        return [_pairs(row, peer, 1) for peer in row.peers]
    return [
        _pairs(row, peer, SLOW_PAIRS if slow > SLOW_SECONDS else PAIRS)
        for peer, slow in zip(row.peers, warm, strict=True)
    ]


def _pairs(row: Row, peer: Peer, num_pairs: int) -> Result:
    product: list[float] = []
    other: list[float] = []
    for pair in range(num_pairs):
        turns = [(row.product, product), (peer.run, other)]
        for run, times in turns if pair % 2 else reversed(turns):
            times.append(row.gauge(run))
    other = [took / peer.part for took in other]
    ratios = tuple(round(b / a, 3) for a, b in zip(product, other, strict=True))
    medians = (round(statistics.median(product), 4), round(statistics.median(other), 4))
    return Result(row.id, row.measure, peer.name, ratios, *medians, peer.target, peer.ahead, row.facts, row.seconds)


def machine() -> dict[str, Any]:
    """What the ratios were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:  # noqa: PTH123
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def to_json(results: list[Result]) -> str:
    return json.dumps([result.plain() for result in results])

"""Exact nearest neighbours by cosine, in blocks: memory does not grow with the number of references."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import faiss
import numpy as np

_QUERIES = 8192
"""Queries that are compared at once, and references of a block at most."""
_REFERENCES = 16384

Blocks: TypeAlias = Callable[[], Iterable[np.ndarray]]
"""Gives the references anew, each time in the same blocks float32 (some, width), of length 1."""


def nearest(queries: np.ndarray, references: Blocks, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` references of largest cosine to each query: similarities float32 (n, k) and places int64 (n, k).

    `queries` (n, width) have length 1. Nearest first; places count through all blocks. Where there are fewer than `k`
    references, similarity is -inf and the place -1. Every pair is computed (faiss), nothing is approximated.
    """
    parts = [_search(queries[start : start + _QUERIES], references, k) for start in range(0, len(queries), _QUERIES)]
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    similarities, places = (np.concatenate(found) for found in zip(*parts, strict=True))
    return similarities, places


def _search(queries: np.ndarray, references: Blocks, k: int) -> tuple[np.ndarray, np.ndarray]:
    queries = np.ascontiguousarray(queries, np.float32)
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    start = 0
    for block in references():
        if len(block):
            found, places = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(found, places + start)
        start += len(block)
    best.finalize()
    missing = ~(best.D > -2)  # the heap's own start, where references were fewer than k
    best.D[missing], best.I[missing] = -np.inf, -1
    return best.D, best.I


class Standard:
    """Puts vectors on one footing: each number from its mean over some rows, in their standard deviations, to length 1.

    Features after a ReLU point nearly one way in all images, so that their cosines tell little before that.
    """

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        num, total, squares = 0, np.float64(0), np.float64(0)
        for block in blocks:
            num, total = num + len(block), total + block.sum(axis=0, dtype=np.float64)
            squares = squares + np.square(block, dtype=np.float64).sum(axis=0)
        mean = total / max(num, 1)
        deviation = np.sqrt(np.maximum(squares / max(num, 1) - mean**2, 0))
        self._mean = mean.astype(np.float32)
        self._scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return unit((vectors - self._mean) * self._scale)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


class Stored:
    """Rows that lie in several .npy files one after the other, read as they are needed.

    No file stays mapped, so that a process holds no more of them than it looks at.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, files = list(paths), [_mapped(path) for path in paths]
        self._shape, self._type = files[0].shape[1:], files[0].dtype
        self._starts = np.cumsum([0, *map(len, files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, places: np.ndarray) -> np.ndarray:
        """The rows at these places, in their order."""
        order = np.argsort(places, kind="stable")
        rows = self._ascending(places[order])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return rows[back]

    def blocks(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """The rows at these places, which ascend, in blocks."""
        for start in range(0, len(places), _REFERENCES):
            yield self._ascending(places[start : start + _REFERENCES])

    def _ascending(self, places: np.ndarray) -> np.ndarray:
        """A copy of the rows at places that ascend: each file is read from its beginning to its end."""
        rows = np.empty((len(places), *self._shape), self._type)
        ends = np.searchsorted(places, self._starts)
        for i in np.flatnonzero(np.diff(ends)):
            mine = slice(ends[i], ends[i + 1])
            np.take(_mapped(self._paths[i]), places[mine] - self._starts[i], axis=0, out=rows[mine], mode="clip")
        return rows


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")

"""Exact nearest neighbours by cosine, in blocks: memory does not grow with the number of references."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import faiss
import numpy as np
import torch

from cxr_core.runs.tables import read_npy

_QUERIES = 8192
"""Queries that are compared at once, and references of a block at most."""
_REFERENCES = 16384
_SPARE = 3
"""Neighbours that are looked for beyond those asked for, so that rounding does not decide who is among these."""

Blocks: TypeAlias = Callable[[], Iterable[np.ndarray]]
"""Gives the references anew, each time in the same blocks float32 (some, width), of length 1."""


def on_gpu() -> bool:
    """Whether products of features are computed there."""
    return torch.cuda.is_available()


def nearest(queries: np.ndarray, references: Blocks, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` references of largest cosine to each query: similarities float32 (n, k) and places int64 (n, k).

    `queries` (n, width) have length 1. Nearest first, of equally near ones the first; places count through all blocks.
    Where there are fewer than `k` references, similarity is -inf and the place -1. Every pair is computed, by faiss or
    on a GPU: nothing is approximated. What a query finds does not depend on the queries beside it, to the last bit: a
    product of matrices rounds otherwise for another number of rows, so the similarities of what is found are computed
    again.
    """
    parts = [_search(queries[start : start + _QUERIES], references, k) for start in range(0, len(queries), _QUERIES)]
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    similarities, places = (np.concatenate(found) for found in zip(*parts, strict=True))
    return similarities, places


def _search(queries: np.ndarray, references: Blocks, k: int) -> tuple[np.ndarray, np.ndarray]:
    queries = np.ascontiguousarray(queries, np.float32)
    best = faiss.ResultHeap(len(queries), k + _SPARE, keep_max=True)
    start = 0
    for block in references():
        if len(block):
            places = _places(queries, block, min(k + _SPARE, len(block)))
            best.add_result(_similarities(queries, block, places), places + start)
        start += len(block)
    best.finalize()
    missing = ~(best.D > -2)  # the heap's own start, where references were fewer than k
    best.D[missing], best.I[missing] = -np.inf, -1
    order = np.lexsort((best.I, -best.D))[:, :k]
    return np.take_along_axis(best.D, order, axis=1), np.take_along_axis(best.I, order, axis=1)


def _places(queries: np.ndarray, block: np.ndarray, k: int) -> np.ndarray:
    """Of the `k` rows of a block with the largest cosine to each query, in any order of equal ones: (n, k)."""
    if not on_gpu():
        return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
    products = torch.from_numpy(queries).cuda() @ torch.from_numpy(np.ascontiguousarray(block, np.float32)).cuda().T
    return products.topk(k).indices.cpu().numpy()


def _similarities(queries: np.ndarray, block: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Cosines of each query with the rows of a block at its places, each summed in the same order: (n, k)."""
    columns = [(queries * block[column]).sum(axis=1) for column in places.T]
    return np.ascontiguousarray(np.stack(columns, axis=1))


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

    `first` is the place of the first file's first row: rows before it lie elsewhere and are not needed. No file stays
    mapped, so that a process holds no more of them than it looks at.
    """

    def __init__(self, paths: Sequence[Path], first: int = 0) -> None:
        self._paths, files = list(paths), [_mapped(path) for path in paths]
        self._shape, self._type = files[0].shape[1:], files[0].dtype
        self._starts = first + np.cumsum([0, *map(len, files)])

    def __len__(self) -> int:
        """The place after the last row."""
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
    return read_npy(path, mapped=True)

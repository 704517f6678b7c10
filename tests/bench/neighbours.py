"""The row of memorisation: C7 exact nearest neighbours."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np

from cxr_core.data.neighbours import Stored, nearest, unit
from tests.bench.harness import Peer, Row
from tests.pipeline import python_with_memory

QUERIES, REFERENCES, WIDTH = 2_000, 112_120, 768
"""All of ChestX-ray14, and the width of a ViT-B's features."""
_LOOPED = 100
_SHARD = 1024


@contextmanager
def c7() -> Iterator[Row]:
    """The product reads its references from the .npy files of shards; the peers have theirs in memory."""
    draw = np.random.default_rng(7)
    queries = unit(draw.standard_normal((QUERIES, WIDTH), np.float32))
    references = unit(draw.standard_normal((REFERENCES, WIDTH), np.float32))
    index = faiss.IndexFlatIP(WIDTH)
    index.add(references)
    with tempfile.TemporaryDirectory() as name:
        stored = write(references, Path(name))

        def product() -> tuple[np.ndarray, np.ndarray]:
            return search(stored, queries)

        def loop() -> list[int]:
            return [int((references @ query).argmax()) for query in queries[:_LOOPED]]

        def check() -> None:
            similarity, places = product()
            expected, expected_places = index.search(queries, 1)
            assert (places == expected_places).all()
            assert np.abs(similarity - expected).max() < 1e-6
            assert places[:_LOOPED, 0].tolist() == loop()

        yield Row(
            "C7",
            f"nearest of {REFERENCES:,} x {WIDTH} for each of {QUERIES:,}, exact",
            product,
            (
                Peer("numpy, a query at a time", loop, 15, 15, part=_LOOPED / QUERIES),
                Peer("bare faiss IndexFlatIP in memory", lambda: index.search(queries, 1), 0.9, 0.95),
            ),
            check,
            {"threads": faiss.omp_get_max_threads(), **{f"mib_at_{n}": peak(n) for n in (REFERENCES, 4 * REFERENCES)}},
        )


def write(references: np.ndarray, folder: Path) -> Stored:
    """The references as shards would leave them."""
    paths = []
    for i, start in enumerate(range(0, len(references), _SHARD)):
        paths.append(folder / f"{i:05d}.npy")
        np.save(paths[-1], references[start : start + _SHARD])
    return Stored(paths)


def search(stored: Stored, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return nearest(queries, lambda: stored.blocks(np.arange(len(stored))), 1)


def peak(num_references: int) -> int:
    """MiB that a process holds at most to search so many."""
    code, said, mib = python_with_memory("-m", "tests.bench.neighbours", str(num_references))
    assert code == 0, said
    return round(mib)


def main(num_references: int) -> None:
    """Search references for all of which one shard stands, again and again."""
    draw = np.random.default_rng(7)
    queries = unit(draw.standard_normal((QUERIES, WIDTH), np.float32))
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name, "0.npy"), unit(draw.standard_normal((_SHARD, WIDTH), np.float32)))
        search(Stored([Path(name, "0.npy")] * (num_references // _SHARD)), queries)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""What must hold of a Dataset's index before any of it is believed: it may have been written by somebody else."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPLITS = ("train", "val", "test", "synthetic")
LONGEST_ID = 255
"""Bytes of an image id, as of a file name."""

_MAY_BE_NULL = {"age", "seed", "follow_up"}


def png_limit(size: int) -> int:
    """Bytes that the PNG of a grey image of `size` x `size` has at most: deflated badly, with texts beside it."""
    return 2 * size * (size + 1) + (1 << 16)


def faults(table: pa.Table, *, num_images: int, size: int, num_findings: int, shards: Sequence[str]) -> Iterator[str]:
    """A line for each thing that is wrong with an index (of `dataset.SCHEMA`), with the first image that it is of.

    `shards` are the names of the tars that dataset.json lists: no other file is ever opened.
    """
    if len(table) != num_images:
        yield f"{len(table):,} rows, but dataset.json records {num_images:,} images"
    nulls = [name for name in table.column_names if name not in _MAY_BE_NULL and table[name].null_count]
    if nulls:
        yield f"rows without {', '.join(nulls)}"
        return
    ids = table["image_id"]
    yield from _of_first(ids, odd_ids(ids), lambda i: f"image id {ids[i].as_py()[:80]!r}: no plain name")
    yield from _doubles(ids)
    for name, good in _GOOD.items():
        values = table[name]
        yield from _of_first(ids, _not(good(values, size, num_findings)), _says(table, name))
    known = pc.is_in(table["shard"], pa.array(shards, pa.string()))
    yield from _of_first(ids, _not(known), _says(table, "shard"))
    if not _boxes_are_finite(table["boxes"]):
        yield "boxes: some are no finite numbers"


def odd_ids(ids: pa.ChunkedArray) -> np.ndarray:
    """Which ids are no name of one file: empty, too long, with a dot before, a slash or a control character in it.

    Over all their bytes at once, since a pattern a row would take a tenth of the time that reading them does.
    """
    return np.concatenate([_odd(chunk) for chunk in ids.chunks] or [np.zeros(0, bool)])


def _odd(ids: pa.StringArray) -> np.ndarray:
    _, offsets, data = ids.buffers()
    places = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    text = np.frombuffer(data if data is not None else b"", np.uint8)
    lengths = np.diff(places)
    odd = (lengths == 0) | (lengths > LONGEST_ID)
    if not odd.any():
        odd = text[places[:-1]] == ord(".")
    text = text[places[0] : places[-1]]
    if (text < ord(" ")).any() or (text == ord("/")).any() or (text == _DELETE).any():
        bad = np.flatnonzero((text < ord(" ")) | (text == ord("/")) | (text == _DELETE)) + places[0]
        odd[np.searchsorted(places, bad, side="right") - 1] = True
    return odd


_DELETE = 127


def _doubles(ids: pa.ChunkedArray) -> Iterator[str]:
    if len(ids) < 2 or pc.all(pc.less(ids[:-1], ids[1:])).as_py():
        return
    counts = pc.value_counts(ids)
    many = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(many):
        first = many[0].as_py()
        more = f" (and {len(many) - 1:,} more such ids)" if len(many) > 1 else ""
        yield f"image {first['values']!r} has {first['counts']:,} rows{more}"


Good = Callable[[pa.ChunkedArray, int, int], pa.ChunkedArray]

_GOOD: dict[str, Good] = {
    "split": lambda values, *_: pc.is_in(values, pa.array(SPLITS)),
    "age": lambda values, *_: pc.fill_null(pc.is_finite(values), True),
    "labels": lambda values, _, num: _between(values, 0, (1 << num) - 1),
    "width": lambda values, size, _: pc.equal(values, size),
    "height": lambda values, size, _: pc.equal(values, size),
    "offset": lambda values, *_: _between(values, 0, 1 << 50),
    "length": lambda values, size, _: _between(values, 1, png_limit(size)),
}
"""Column -> which of its values can be."""


def _between(values: pa.ChunkedArray, low: int, high: int) -> pa.ChunkedArray:
    return pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))


def _not(mask: pa.ChunkedArray) -> np.ndarray:
    return ~mask.to_numpy()


def _of_first(ids: pa.ChunkedArray, bad: np.ndarray, words: Callable[[int], str]) -> Iterator[str]:
    if bad.any():
        num, first = int(bad.sum()), int(bad.argmax())
        yield words(first) + (f" (and {num - 1:,} more)" if num > 1 else "")


def _says(table: pa.Table, name: str) -> Callable[[int], str]:
    def words(row: int) -> str:
        value: Any = table[name][row].as_py()
        return f"image {table['image_id'][row].as_py()[:80]!r}: {name} {str(value)[:80]!r} cannot be"

    return words


def _boxes_are_finite(boxes: pa.ChunkedArray) -> bool:
    flat = pc.list_flatten(boxes)
    fields = [pc.struct_field(flat, name) for name in ("finding", *"xywh")]
    if flat.null_count or any(field.null_count for field in fields):
        return False
    return all(pc.all(pc.is_finite(field)).as_py() is not False for field in fields[1:])

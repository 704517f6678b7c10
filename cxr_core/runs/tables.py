"""Parquet and npy files that somebody else may have written: typed, and never more than they may be (see `door`)."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.runs.door import BadFileError, Place, open_regular

T = TypeVar("T")

MOST_ROWS = 1 << 27
"""Of a table; the largest that we measure has 10^7."""
MOST_BYTES = 1 << 36
"""Of a table's columns before compression, as its footer says; 10^7 images have 2^33."""
_MOST_FOOTER = 1 << 26
_NPY_HEADER = 10_000


Source = Path | tuple[Place, str]
"""A file that the user named or that a stage wrote itself, or a name within a place."""


def read_table(source: Source, schema: pa.Schema | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file's columns: those named, else those of `schema`, else all; of the types that `schema` gives them.

    Raises FileNotFoundError, or BadFileError if it is damaged, of other columns, or of more rows than `MOST_ROWS`.
    """
    file, path = _opened(source)
    with file:
        return _table(file, path, schema, columns)


def read_group(source: Source, number: int) -> pa.Table:
    """One row group of a Parquet file, which is all that is read of it. Raises as `read_table`."""
    file, path = _opened(source)
    with file, _named(path):
        parquet = _parquet(file, path)
        if not 0 <= number < parquet.num_row_groups:
            raise BadFileError(f"has {parquet.num_row_groups:,} row groups, but {number} is wanted", path)
        return _checked(parquet.read_row_group(number))


def read_npy(source: Source, *, mapped: bool = False) -> np.ndarray:
    """An array of numbers; `mapped` leaves it on disk, read-only.

    Raises FileNotFoundError, or BadFileError if it holds Python objects (pickles) or is not as long as it says.
    """
    file, path = _opened(source)
    with file:
        return _npy(file, path, mapped)


def _opened(source: Source) -> tuple[BinaryIO, Path]:
    if isinstance(source, Path):
        return open_regular(source), source
    place, name = source
    return place.open(name), place.path / name


def typed(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """The columns of `schema` in its types. Raises BadFileError naming those that are missing or are another type."""
    if lacking := [name for name in schema.names if table.column_names.count(name) != 1]:
        raise BadFileError(f"no column {', '.join(lacking)}", path)
    with _named(path):
        return table.select(schema.names).cast(schema)


_ODD = (
    *(OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, pa.ArrowException),
    *(SyntaxError, TokenError, RecursionError),  # numpy reads an npy file's header as a piece of Python
)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever the libraries raise of bytes that are none of theirs, as a BadFileError."""
    try:
        yield
    except BadFileError:
        raise
    except _ODD as error:
        raise BadFileError(f"damaged: {str(error)[:300] or type(error).__name__}", path) from error


def _table(file: BinaryIO, path: Path, schema: pa.Schema | None, columns: Sequence[str] | None) -> pa.Table:
    with _named(path):
        parquet = _parquet(file, path)
        wanted = list(schema.names if schema is not None and columns is None else columns or parquet.schema_arrow.names)
        if lacking := [name for name in wanted if parquet.schema_arrow.names.count(name) != 1]:
            raise BadFileError(f"no column {', '.join(lacking)}", path)
        table = _checked(parquet.read(columns=wanted).select(wanted))
    return table if schema is None else typed(table, pa.schema([schema.field(name) for name in wanted]), path)


def _parquet(file: BinaryIO, path: Path) -> pq.ParquetFile:
    _check_footer(file, path)
    parquet = pq.ParquetFile(file)
    rows, size = parquet.metadata.num_rows, _bytes_of(parquet.metadata)
    if not 0 <= rows <= MOST_ROWS or not 0 <= size <= MOST_BYTES:
        raise BadFileError(f"{rows:,} rows of {size:,} bytes: at most {MOST_ROWS:,} of {MOST_BYTES:,}", path)
    return parquet


def _checked(table: pa.Table) -> pa.Table:
    for column in table.columns:
        if not (pa.types.is_string(column.type) and all(map(_is_ascii, column.chunks))):
            column.validate(full=True)  # of texts, that they are UTF-8
    return table


def _is_ascii(texts: pa.StringArray) -> bool:
    """Most texts are, which is seen in a tenth of the time."""
    data = texts.buffers()[2]
    return data is None or not data.size or bool(np.frombuffer(data, np.uint8).max() < 128)


def _check_footer(file: BinaryIO, path: Path) -> None:
    """A footer is decoded at once, and a false length of it would be allocated."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - 8))
    end = file.read(8)
    if end[4:] != b"PAR1" or int.from_bytes(end[:4], "little") > min(size - 8, _MOST_FOOTER):
        raise BadFileError("damaged: no Parquet file, or cut off", path)
    file.seek(0)


def _bytes_of(metadata: Any) -> int:
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def _npy(file: BinaryIO, path: Path, mapped: bool) -> np.ndarray:
    with _named(path):
        version = np.lib.format.read_magic(file)
        read = _HEADERS.get(version)
        if read is None:
            raise BadFileError(f"an npy file of version {version}", path)
        shape, fortran, dtype = read(file, max_header_size=_NPY_HEADER)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize == 0:
            raise BadFileError(f"holds {dtype}, no numbers", path)
        if min(shape, default=0) < 0 or math.prod(map(int, shape)) * dtype.itemsize != size - start:
            raise BadFileError(f"has {size - start:,} bytes, but its header says {shape} of {dtype}", path)
        order = "F" if fortran else "C"
        if mapped and size > start:
            return np.memmap(file, dtype, "r", start, shape, order)  # type: ignore[call-overload]
        return np.frombuffer(bytearray(file.read(size - start)), dtype).reshape(shape, order=order)  # type: ignore[call-overload]


_HEADERS: Mapping[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

"""Files of weights in safetensors, read without torch: which tensors they hold, and a digest of their content.

The package safetensors opens them by path, links included, and does not say where in a file a tensor lies, which is
what lets a digest be taken of models that are larger than the memory.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cxr_core.errors import UserError
from cxr_core.runs.door import open_regular

_BLOCK = 1 << 24
_MOST_HEADER = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header of `file` describes it there, by its `name` in it and from `start` to `stop`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: Path

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, sorted.

    Raises UserError if it is missing, no safetensors file, or of another length than its header says.
    """
    try:
        with open_regular(path) as file:
            first = file.read(8)
            if first.startswith(_POINTER[:8]):
                raise _pointer(path)
            size = int.from_bytes(first, "little")
            if size > _MOST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        found = {name: _tensor(name, about, 8 + size, path) for name, about in sorted(tensors.items())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"is no readable safetensors file ({error})", where=str(path), hint=_COPY) from error
    needed = max((tensor.stop for tensor in found.values()), default=8 + size)
    if needed != (there := path.stat().st_size):
        kind = "cut off" if needed > there else "has more than belongs to it"
        raise UserError(f"{kind}: {there:,} bytes, and its header describes {needed:,}", where=str(path), hint=_COPY)
    return found


_COPY = "copy the model's folder again"
_POINTER = b"version https://git-lfs"


def insist_no_pointer(path: Path) -> None:
    """Raise UserError where Git LFS has left a pointer in place of the file."""
    with open_regular(path) as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise _pointer(path)


def _pointer(path: Path) -> UserError:
    return UserError(
        "is a pointer of Git LFS, not the weights", where=str(path), hint="fetch them: `git lfs pull` in that folder"
    )


def content_sha256(path: Path) -> str:
    """`values_sha256` of all tensors of a file, under the names that it gives them."""
    return values_sha256(read_header(path))


def values_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over tensors by name, with type, shape and values: the same whatever files they lie in.

    Half and double precision count as the single precision that they are computed in, so that a model and what was
    trained further from it have the same digest of the parts that stayed. Raises UserError naming a tensor with values
    that are not finite: whatever is computed with it is not either.
    """
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(open_regular(path)) for path in {tensor.file for tensor in tensors.values()}}
        for name, tensor in sorted(tensors.items()):
            dtype = "F32" if tensor.dtype in _FLOATS else tensor.dtype
            digest.update(json.dumps([name, dtype, tensor.shape]).encode())
            for block in _blocks(files[tensor.file], tensor):
                if isinstance(block, np.ndarray) and not np.isfinite(block).all():
                    raise _not_finite(name, tensor)
                digest.update(block.data if isinstance(block, np.ndarray) else block)
    return digest.hexdigest()


def _blocks(file: BinaryIO, tensor: Tensor) -> Iterator[bytes | np.ndarray]:
    """The values of a tensor piece by piece: numbers as float32, anything else as it stands."""
    file.seek(tensor.start)
    left = tensor.stop - tensor.start
    while block := file.read(min(left, _BLOCK)):
        yield _FLOATS[tensor.dtype](block) if tensor.dtype in _FLOATS else block
        left -= len(block)


def _not_finite(name: str, tensor: Tensor) -> UserError:
    return UserError(
        f"{name} has values that are not finite (NaN or infinite)",
        where=str(tensor.file),
        hint="take an earlier checkpoint of that training, or get the model's files again",
    )


_FLOATS: dict[str, Callable[[bytes], np.ndarray]] = {
    "F16": lambda block: np.frombuffer(block, "<f2").astype("<f4"),
    "BF16": lambda block: (np.frombuffer(block, "<u2").astype("<u4") << 16).view("<f4"),
    "F32": lambda block: np.frombuffer(block, "<f4"),
    "F64": lambda block: np.frombuffer(block, "<f8").astype("<f4"),
}
"""Bytes of a tensor to its numbers in single precision."""

COMPUTED = frozenset(_FLOATS)
"""Types of numbers that a model of ours computes with, in single precision or what the config asks for."""


def _tensor(name: str, about: dict, offset: int, file: Path) -> Tensor:
    start, stop = (offset + int(place) for place in about["data_offsets"])
    found = Tensor(name, str(about["dtype"]), tuple(map(int, about["shape"])), start, stop, file)
    width = _WIDTHS.get(found.dtype)
    if start < offset or stop < start or (width is not None and stop - start != width * found.size):
        raise ValueError(f"{name} has {stop - start} bytes for {found.dtype} {found.shape}")
    return found


_WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Bytes of a number."""

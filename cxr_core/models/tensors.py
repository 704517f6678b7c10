"""Files of weights in safetensors, read without torch: which tensors they hold, and a digest of their content."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_core.errors import UserError

_BLOCK = 1 << 24
_MOST_HEADER = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header of a file describes it; `start` and `stop` are places in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, sorted. Raises UserError if it is missing or no safetensors file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _MOST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        return {name: _tensor(about, 8 + size) for name, about in sorted(tensors.items())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"is no readable safetensors file ({error})", where=str(path), mend="copy the model's folder again"
        ) from error


def weights_file(part: Path) -> Path:
    """The file of weights in a part (unet/, vae/, text_encoder/) of a diffusers folder, which may be missing."""
    ours, other = "diffusion_pytorch_model.safetensors", "model.safetensors"
    if part.name == "text_encoder":
        ours, other = other, ours
    return part / (other if (part / other).is_file() and not (part / ours).is_file() else ours)


def content_sha256(path: Path) -> str:
    """sha256 over the tensors by name, with type, shape and values: the same whatever library laid the file out.

    Half precision counts as the single precision that it is computed in, so that a model and what was trained further
    from it have the same digest of the parts that stayed.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for name, tensor in read_header(path).items():
            dtype = "F32" if tensor.dtype in _HALF else tensor.dtype
            digest.update(json.dumps([name, dtype, tensor.shape]).encode())
            file.seek(tensor.start)
            left = tensor.stop - tensor.start
            while block := file.read(min(left, _BLOCK)):
                digest.update(_HALF[tensor.dtype](block) if tensor.dtype in _HALF else block)
                left -= len(block)
    return digest.hexdigest()


_HALF: dict[str, Callable[[bytes], bytes]] = {
    "F16": lambda block: np.frombuffer(block, "<f2").astype("<f4").tobytes(),
    "BF16": lambda block: (np.frombuffer(block, "<u2").astype("<u4") << 16).tobytes(),
}
"""Numbers of half precision to bytes of the same in single precision."""


def _tensor(about: dict, offset: int) -> Tensor:
    start, stop = about["data_offsets"]
    return Tensor(str(about["dtype"]), tuple(map(int, about["shape"])), offset + int(start), offset + int(stop))

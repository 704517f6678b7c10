"""Tensors of a file or folder of others' weights, opened without running code, under names without wrappers."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cxr_core.errors import UserError
from cxr_core.models.parts import Part, by_library_name, first_file, shards, weights_files
from cxr_core.models.strict import insist_finite
from cxr_core.models.tensors import insist_no_pointer, read_header

Tensors = dict[str, torch.Tensor]

PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|_fsdp_wrapped_module)\.)+")
"""What DistributedDataParallel, torch.compile and FSDP put before every name."""


def read_weights(file: Path) -> Tensors:
    """The tensors of a safetensors file, or of a file of torch.save, by name; without names of wrappers around a model.

    Of a pickle tensors and plain values alone are read: one that would run code is refused. Raises UserError so, or if
    the file is damaged, or holds values that are not finite.
    """
    if file.suffix == ".safetensors":
        read_header(file)  # says what is wrong with a file better than the library does
    try:
        found = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", where=str(file), hint="copy the file again") from error
    tensors: Tensors = {}
    for name, tensor in found.items():
        if (plain := _WRAPPERS.sub("", name)) in tensors:
            hint = "remove what is not the model's, for example a copy that a wrapper kept, and save the file again"
            raise UserError(f"{plain} is there twice, once with a wrapper's prefix", where=str(file), hint=hint)
        tensors[plain] = tensor
    _insist_numbers(tensors, file)
    insist_finite(tensors, file)
    return tensors


_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
"""Those of weights, and of counters and places beside them."""


def _insist_numbers(tensors: Tensors, file: Path) -> None:
    if odd := [name for name, tensor in tensors.items() if tensor.dtype not in _NUMBERS]:
        kinds = ", ".join(sorted({str(tensors[name].dtype).removeprefix("torch.") for name in odd}))
        what = f"{len(odd)} tensors are {kinds}, e.g. {odd[0]}: quantised weights cannot be used"
        raise UserError(what, where=str(file), hint="take the model in float32, float16 or bfloat16")


def read_part(folder: Path, part: Part) -> Tensors:
    """A part of a diffusers folder in float32 by the libraries' names, from safetensors or, where it has none, pickles.

    Harmless leftovers are left out. Raises UserError as `read_weights` and `weights_files`.
    """
    pickled = [] if first_file(folder / part) else _pickled_files(folder / part)
    found: Tensors = {}
    for file in pickled or weights_files(folder / part):
        found |= read_weights(file)
    return named(found, part, folder / part)


def named(found: Tensors, part: Part, where: Path) -> Tensors:
    """Tensors in float32 by the libraries' names, without harmless leftovers. Raises UserError if two have one name.

    Attention of a VAE that convolves single pixels, as the original code has it, becomes the linear layer that it is.
    """
    plain = by_library_name(part, found, where=where)
    return {name: _as_linear(part, name, tensor).float().contiguous() for name, tensor in plain.items()}


def _as_linear(part: Part, name: str, tensor: torch.Tensor) -> torch.Tensor:
    convolves = part == "vae" and ".attentions." in name and tensor.shape[2:] == (1, 1)
    return tensor[:, :, 0, 0] if convolves else tensor


def _pickled_files(folder: Path) -> list[Path]:
    """The whole file or the shards, in single precision where there is a choice."""
    stems = ("pytorch_model", "diffusion_pytorch_model")
    for variant in ("", ".fp16"):
        for name in (f"{stem}{variant}.bin" for stem in stems):
            if (folder / name).is_file():
                return [folder / name]
        for index in (folder / f"{stem}.bin.index{variant}.json" for stem in stems):
            if index.is_file():
                return shards(index)
    return []


def _unopened(file: Path, error: Exception) -> UserError:
    first = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):  # the latter of TorchScript
        what = f"torch cannot open it without running code of its own ({first})"
        hint = "take the weights as safetensors, or a file of torch.save with tensors and plain values alone"
        return UserError(what, where=str(file), hint=hint)
    return UserError(f"damaged or cut off ({first})", where=str(file), hint="copy the file again")


def _unpickled(file: Path) -> Mapping[str, torch.Tensor]:
    insist_no_pointer(file)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unopened(file, error) from error
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    pairs = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: each for name, each in pairs if isinstance(name, str) and isinstance(each, torch.Tensor)}
    if not tensors:
        there = f" (it has {', '.join(map(str, [*content][:5]))})" if isinstance(content, Mapping) and content else ""
        hint = "give a state_dict as torch.save writes it: of a whole training take the entry with the weights alone"
        raise UserError(f"holds no tensors by name{there}", where=str(file), hint=hint)
    return tensors

"""Tensors of a file or folder of others' weights, opened without running code, under names without wrappers."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cxr_core.errors import UserError
from cxr_core.models.parts import Part, by_library_name, weights_files
from cxr_core.models.strict import insist_finite
from cxr_core.models.tensors import read_header

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
        raise UserError(f"cannot be read ({error})", where=str(file), mend="copy the file again") from error
    tensors = {_WRAPPERS.sub("", name): tensor for name, tensor in found.items()}
    insist_finite(tensors, file)
    return tensors


def read_part(folder: Path, part: Part) -> Tensors:
    """A part of a diffusers folder in float32 by the libraries' names, from safetensors or, where it has none, pickles.

    Harmless leftovers are left out. Raises UserError as `read_weights` and `weights_files`.
    """
    try:
        files = weights_files(folder / part)
    except UserError:
        if not (files := _pickled_files(folder / part)):
            raise
    found: Tensors = {}
    for file in files:
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
                names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
                return [folder / Path(name).name for name in names]
    return []


def _unpickled(file: Path) -> Mapping[str, torch.Tensor]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"torch cannot open it without running code of its own ({str(error).splitlines()[0]})",
            where=str(file),
            mend="take the weights as safetensors, or a file of torch.save with tensors and plain values alone",
        ) from error
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = {name: each for name, each in content.items() if isinstance(each, torch.Tensor)} if content else {}
    if not tensors:
        raise UserError("holds no tensors by name", where=str(file), mend="give a state_dict as torch.save writes it")
    return tensors

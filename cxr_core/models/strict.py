"""Weights that fit a model exactly, or are refused with the names of all that does not fit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cxr_core.errors import UserError
from cxr_core.models.fit import Shapes, differences
from cxr_core.models.folder import damaged
from cxr_core.models.tensors import Tensor
from cxr_core.runs.door import BadFileError, open_regular


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all weights and buffers. Equal ones give equal bytes."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path, *, assign: bool = False) -> None:
    """Read what `save_weights` wrote; `assign` as in `load_state_dict`. Raises UserError if the file is damaged, or of
    another model, or holds values that are not finite."""
    try:
        open_regular(path).close()  # safetensors would wait for a pipe
        given = load_file(path)
    except (OSError, SafetensorError, BadFileError) as error:
        raise damaged(path, str(error)) from error
    if wrong := list(differences(shapes(model.state_dict()), shapes(given))):
        raise damaged(path, "; ".join(wrong))
    insist_finite(given, path)
    model.load_state_dict(given, assign=assign)


def read_tensors(tensors: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    """The values of tensors that `read_header` found, in float32, by the names that they have here.

    Copied out of the files, so that how these are laid out cannot change the last bit of what is computed.
    """
    found: dict[str, torch.Tensor] = {}
    for path in sorted({tensor.file for tensor in tensors.values()}):
        with safe_open(path, framework="pt") as file:
            of_file = {name: tensor for name, tensor in tensors.items() if tensor.file == path}
            for name, tensor in of_file.items():
                found[name] = file.get_tensor(tensor.name).to(torch.float32, copy=True)
    return found


def insist_finite(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Raise UserError naming the tensors with values that are NaN or infinite."""
    if bad := [name for name, each in tensors.items() if each.is_floating_point() and not each.isfinite().all()]:
        raise UserError(
            f"{len(bad)} tensors have values that are not finite: {', '.join(bad[:10])}",
            where=str(file),
            hint="take an earlier checkpoint of that training, or get the file again",
        )


def shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

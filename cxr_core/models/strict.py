"""Weights that fit a model exactly, or are refused with the names of all that does not fit."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cxr_core.models.folder import damaged

Shapes = Mapping[str, tuple[int, ...]]


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all weights and buffers. Equal ones give equal bytes."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path, *, assign: bool = False) -> None:
    """Read what `save_weights` wrote; `assign` as in `load_state_dict`. Raises UserError if the file is damaged, or of
    another model."""
    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, str(error)) from error
    if wrong := list(differences(shapes(model.state_dict()), shapes(given))):
        raise damaged(path, "; ".join(wrong))
    model.load_state_dict(given, assign=assign)


def shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(wanted: Shapes, given: Shapes) -> Iterator[str]:
    """What keeps weights from being exactly those of a model: a line a kind, with the names."""
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing:
        yield f"{len(missing)} are missing: {', '.join(missing)}"
    if unknown:
        yield f"{len(unknown)} are of something else: {', '.join(unknown)}"
    for name in sorted(wanted.keys() & given.keys()):
        if wanted[name] != given[name]:
            yield f"{name} is {given[name]}, not {wanted[name]}"

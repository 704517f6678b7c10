"""A LoRA as a file: in diffusers' form, and in the one that kohya's scripts and web UIs read.

Both hold the scale (alpha / rank) within the weights, so that a program that knows nothing of alpha draws the same
images. Neither has notes in its header: each version of peft knows others, and an older one fails on those of a newer.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cxr_core.errors import UserError
from cxr_core.runs.door import open_regular, parse

DIFFUSERS, KOHYA = "pytorch_lora_weights.safetensors", "kohya.safetensors"

Adapter: TypeAlias = Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]
"""(part, layer) -> the matrices down (rank, inputs) and up (outputs, rank) of which up @ down is added to the layer."""

_KEY = re.compile(r"(unet|text_encoder)\.(.+)\.(?:lora|lora_linear_layer)[._](A|B|down|up)\.weight")
_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te"}


def write_diffusers(adapter: Adapter, folder: Path) -> None:
    """Write it for `load_lora_weights` of diffusers. Equal adapters give equal bytes."""
    tensors: dict[str, torch.Tensor] = {}
    for (part, layer), (down, up) in adapter.items():
        name = f"{part}.{_in_full(part, layer)}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    _write(tensors, folder / DIFFUSERS)


def write_kohya(adapter: Adapter, folder: Path) -> None:
    """Write it as kohya's scripts do: with underscores in the names of layers, and alpha as a tensor of each."""
    tensors: dict[str, torch.Tensor] = {}
    for (part, layer), (down, up) in adapter.items():
        name = f"{_KOHYA[part]}_{_in_full(part, layer)}".replace(".", "_")
        alpha = torch.tensor(float(len(down)))  # its rank: the scale that is left is 1
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
    _write(tensors, folder / KOHYA)


def read_diffusers(folder: Path) -> Adapter:
    """What `write_diffusers` wrote, or an older version of us, which told alpha in the file's notes alone.

    Raises UserError where there is none, or one of another form.
    """
    path = folder / DIFFUSERS
    try:
        open_regular(path).close()  # safetensors would wait for a pipe
        with safe_open(path, "pt") as file:
            notes = parse((file.metadata() or {}).get("lora_adapter_metadata", "{}").encode(), dict[str, Any], path)
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    return dict(_layers(found, notes, path))


def _layers(
    found: Mapping[str, torch.Tensor], notes: Mapping[str, float], path: Path
) -> Iterator[tuple[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]]:
    halves: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, tensor in found.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise _unreadable(path, f"a tensor {name!r} of no layer")
        part, layer, half = match.groups()
        halves.setdefault((part, layer), {})["down" if half in ("A", "down") else "up"] = tensor
    for (part, layer), matrices in halves.items():
        if len(matrices) != 2:
            raise _unreadable(path, f"half of {part}.{layer}")
        rank = len(matrices["down"])
        scale = float(notes.get(f"{part}.lora_alpha", rank)) / rank
        yield (part, layer), (matrices["down"], matrices["up"] * scale)


def _in_full(part: str, layer: str) -> str:
    """The layer's name as all versions of diffusers know it; newer ones of transformers leave out a prefix."""
    return layer if part == "unet" or layer.startswith("text_model.") else f"text_model.{layer}"


def _write(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def _unreadable(path: Path, detail: str) -> UserError:
    return UserError(f"is no LoRA of ours ({detail})", where=str(path), hint="copy the checkpoint's lora/ again")

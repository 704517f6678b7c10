"""A LoRA file of diffusers, peft, kohya or a web UI, added to the weights of a base."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import weights_sha256
from cxr_core.models.importing.lora_strength import read_notes, strength
from cxr_core.models.importing.weights import Tensors, read_weights
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.runs.files import atomic_path, write_json

_SIDES = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "down.weight": "down",
    "up.weight": "up",
    "alpha": "alpha",
}
"""How names end, and what they are."""

Layer: TypeAlias = torch.nn.Linear | torch.nn.Conv2d

_OLD_LAYER = re.compile(r"\.(processor|self_attn)\.to_(q|k|v|out)_lora$")
_OLD = {
    "processor": {"q": ".to_q", "k": ".to_k", "v": ".to_v", "out": ".to_out.0"},
    "self_attn": {each: f".self_attn.{each}_proj" for each in ("q", "k", "v", "out")},
}
"""How files older than diffusers 0.20 name the layers of attention: `attn1.processor.to_q_lora.down.weight` of the
UNet, `self_attn.to_q_lora.down.weight` of the text encoder."""

_FILES = tuple(f"{stem}{end}" for end in (".safetensors", ".bin") for stem in ("pytorch_lora_weights", "adapter_model"))
"""Of an adapter that is given as a folder."""


@dataclass
class _Pair:
    """What is added to a layer: up @ down, alpha / rank times. `alpha` is None where no tensor says it."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None


def import_lora(source: Path, out: Path, base: Path, scale: float = 1.0) -> int:
    """Write `base` with an adapter added to its weights, `scale` times, as the new folder `out`.

    `out` can stand as `base` or `model`. `source` is the adapter's file, or the folder with it. Its strength is
    alpha / rank; alpha stands in the file's tensors or notes, or in adapter_config.json beside it, and is the rank
    where it stands nowhere. Returns how many layers were changed. Raises UserError naming every tensor that has no
    place in the base: nothing is left out.
    """
    file = _file(source)
    pairs, notes = _pairs(file, read_weights(file)), read_notes(file)
    pipeline = stable_diffusion.load(base)
    places = _places(pipeline)
    if lost := [name for name in pairs if name not in places]:
        raise UserError(
            f"{len(lost)} layers are not in the base: {', '.join(sorted(lost)[:20])}",
            where=str(file),
            hint="name with --base the Stable Diffusion that the adapter was trained on",
        )
    owners: dict[Layer, str] = {}
    for name, pair in pairs.items():
        if owners.setdefault(places[name], name) != name:
            raise _twice(name, file)
        _add(places[name], pair, _strength(name, pair, notes) * scale, name, file)
    _write(pipeline, out, base, {"lora": file.name, "scale": scale})
    return len(pairs)


def _write(pipeline: Any, out: Path, base: Path, about: Mapping[str, Any]) -> None:
    with atomic_path(out) as work:
        stable_diffusion.save(pipeline, work)
        record = {"format": 1, "weights_sha256": weights_sha256(work), "dtype": "float32"}
        write_json(work / "model.json", {**record, "base_sha256": weights_sha256(base), **about})
        if (base / TRAINING_DATA).is_file():
            shutil.copyfile(base / TRAINING_DATA, work / TRAINING_DATA)


def _file(source: Path) -> Path:
    if not source.is_dir():
        return source
    found = next((source / name for name in _FILES if (source / name).is_file()), None)
    if found is None:
        raise UserError(f"none of {', '.join(_FILES)} is there", where=str(source), hint="give the adapter's file")
    return found


def _pairs(file: Path, tensors: Tensors) -> dict[str, _Pair]:
    """The layers of an adapter by the names that its file gives them."""
    found: dict[str, _Pair] = {}
    unknown = []
    for name, tensor in tensors.items():
        plain = name.replace(".default.", ".")
        side = next((end for end in _SIDES if plain.endswith(f".{end}")), None)
        if side is None:
            unknown.append(name)
            continue
        layer = _OLD_LAYER.sub(lambda match: _OLD[match[1]][match[2]], plain.removesuffix(f".{side}"))
        pair = found.setdefault(layer, _Pair())
        if getattr(pair, _SIDES[side]) is not None:
            raise _twice(name, file)
        setattr(pair, _SIDES[side], float(tensor) if side == "alpha" else tensor.float())
    if not tensors:
        raise UserError("holds no tensors", where=str(file), hint="get the adapter's file again")
    if unknown:
        raise UserError(
            f"{len(unknown)} tensors are of no plain LoRA: {', '.join(sorted(unknown)[:20])}",
            where=str(file),
            hint="DoRA, LoHa, LoKr and trained embeddings cannot be added: merge them with the program that made them",
        )
    if half := [name for name, pair in found.items() if pair.down is None or pair.up is None]:
        what = f"{len(half)} layers have one matrix of two: {', '.join(sorted(half)[:20])}"
        raise UserError(what, where=str(file), hint="get the file again")
    return found


def _twice(name: str, file: Path) -> UserError:
    hint = "give a file with one adapter: add two of them one after the other"
    return UserError(f"changes the layer of {name} twice", where=str(file), hint=hint)


def _places(pipeline: Any) -> dict[str, Layer]:
    """The layers that an adapter can change, by each name that a file may give them."""
    found: dict[str, Layer] = {}
    for part, kohya, inner in (("unet", "lora_unet_", ""), ("text_encoder", "lora_te_", "text_model.")):
        for name, layer in getattr(pipeline, part).named_modules():
            if isinstance(layer, Layer):
                for each in dict.fromkeys((name, inner + name)):
                    dotted = (each, f"{part}.{each}", f"base_model.model.{each}", f"base_model.model.{part}.{each}")
                    found |= dict.fromkeys((*dotted, kohya + each.replace(".", "_")), layer)
    return found


def _strength(name: str, pair: _Pair, notes: Mapping[str, Any]) -> float:
    assert pair.down is not None
    return strength(name, pair.down.shape[0], pair.alpha, notes)


@torch.no_grad()
def _add(layer: Layer, pair: _Pair, strength: float, name: str, file: Path) -> None:
    """Of a convolution the first matrix convolves and the second mixes its channels."""
    assert pair.down is not None
    assert pair.up is not None
    weight = layer.weight
    up, down = pair.up.flatten(1), pair.down.flatten(1)
    if (up.shape[0], down.shape[1]) != tuple(weight.flatten(1).shape) or up.shape[1] != down.shape[0]:
        raise UserError(
            f"{name} is {tuple(pair.up.shape)} times {tuple(pair.down.shape)}, and the layer is {tuple(weight.shape)}",
            where=str(file),
            hint="name with --base the Stable Diffusion that the adapter was trained on: 1 and 2 differ in their sizes",
        )
    weight += strength * (up @ down).view(weight.shape)

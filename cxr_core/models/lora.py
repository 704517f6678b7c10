"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the UNet and the text encoder of a pipeline, by peft."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from cxr_core.errors import UserError
from cxr_core.models.lora_files import write_diffusers

_NAME = "default"


def add_adapter(part: Any, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Add to each linear layer whose name ends like one of `targets` a product of two matrices that starts at zero.

    It is scaled by alpha / rank. From then on only these matrices are trained (`requires_grad`). Raises UserError if
    there is no such layer.
    """
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": list(targets)}
    try:
        inject_adapter_in_model(LoraConfig(**options), part, _NAME)
    except ValueError as error:
        raise UserError(
            f"no adapter can be added to {', '.join(targets)} of a {type(part).__name__} ({error})",
            where="lora",
            hint="name linear layers by the end of their names, as the base's weights have them",
        ) from error


def has_adapter(part: Any) -> bool:
    return any(_is_adapted(module) for module in part.modules())


def _is_adapted(layer: Any) -> bool:
    return isinstance(layer, LoraLayer)


def merged(part: Any) -> Any:
    """`part` with its adapter added to its weights, as a model without any; the other weights are shared with it."""
    tensors = {name.replace(".base_layer.", "."): t for name, t in part.state_dict().items() if ".lora_" not in name}
    for name, layer in part.named_modules():
        if _is_adapted(layer):
            weight = layer.get_base_layer().weight
            tensors[f"{name}.weight"] = weight.detach() + layer.get_delta_weight(_NAME).detach()
    with torch.device("meta"):
        plain = type(part).from_config(part.config) if hasattr(part, "from_config") else type(part)(part.config)
    plain.load_state_dict(tensors, assign=True)
    for name, buffer in part.named_buffers():  # those too that no file holds, such as places of words
        owner, _, leaf = name.replace(".base_layer.", ".").rpartition(".")
        setattr(plain.get_submodule(owner), leaf, buffer)
    return plain


def merged_pipeline(pipeline: Any) -> Any:
    """The pipeline with every adapter merged."""
    parts = {name: merged(part) for name, part in _adapted(pipeline).items()}
    return StableDiffusionPipeline(**pipeline.components | parts, requires_safety_checker=False)


def save_adapter(pipeline: Any, folder: Path) -> None:
    """Write the adapters alone, for `load_lora_weights` of a diffusers pipeline. Equal adapters give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_diffusers(
        {key: halves for name, part in _adapted(pipeline).items() for key, halves in _halves(name, part)}, folder
    )


def _halves(name: str, part: Any) -> Iterator[tuple[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]]:
    for layer, module in part.named_modules():
        if _is_adapted(module):
            down, up = (getattr(module, half)[_NAME].weight.detach() for half in ("lora_A", "lora_B"))
            yield (name, layer), (down, up * module.scaling[_NAME])


def _adapted(pipeline: Any) -> dict[str, Any]:
    return {name: part for name in ("unet", "text_encoder") if has_adapter(part := getattr(pipeline, name))}

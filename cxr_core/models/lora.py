"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the UNet and the text encoder of a pipeline, by peft."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from cxr_core.errors import UserError
from cxr_core.models.tensors import sort_metadata

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
            mend="name linear layers by the end of their names, as the base's weights have them",
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
    return plain


def merged_pipeline(pipeline: Any) -> Any:
    """The pipeline with every adapter merged."""
    parts = {name: merged(part) for name, part in _adapted(pipeline).items()}
    return StableDiffusionPipeline(**pipeline.components | parts, requires_safety_checker=False)


def save_adapter(pipeline: Any, folder: Path) -> None:
    """Write the adapters alone, for `load_lora_weights` of a diffusers pipeline. Equal adapters give equal bytes."""
    layers, about = {}, {}
    for name, part in _adapted(pipeline).items():
        state = get_peft_model_state_dict(part, adapter_name=_NAME, save_embedding_layers=False)
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
        config = part.peft_config[_NAME].to_dict()
        # A set of texts has another order in each process.
        about[f"{name}_lora_adapter_metadata"] = config | {"target_modules": sorted(config["target_modules"])}
    StableDiffusionPipeline.save_lora_weights(str(folder), **layers, **about)
    for path in folder.glob("*.safetensors"):
        sort_metadata(path)


def _adapted(pipeline: Any) -> dict[str, Any]:
    return {name: part for name in ("unet", "text_encoder") if has_adapter(part := getattr(pipeline, name))}

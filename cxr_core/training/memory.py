"""What fine-tuning needs of a GPU's memory, by arithmetic on the headers of the base's files, without torch.

Everything is float32: mixed precision keeps weights, gradients and moments so, and halves at most the activations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_core.data.prompts import MAX_TOKENS
from cxr_core.models.parts import PARTS, part_tensors
from cxr_core.models.tensors import Tensor
from cxr_core.runs.files import read_json
from cxr_core.training.ranks_settings import DiffusionRanks
from cxr_core.training.settings import DiffusionTrain, Lora

NUM_GPUS = 8
"""Of the lines by ZeRO stage, where there is more than one."""
_BYTES = 4
_PLAIN = 19.5
"""Numbers kept for the gradient per number of a layer's output: fits Stable Diffusion 2.1's UNet to 2 %, our small ones
to 10 %, against what torch keeps (fused attention; see the test)."""
_CHECKPOINTED = (4.7, 1.7)
"""The same with gradient checkpointing, of residual and attention layers: their inputs."""
_TEXT = 18.0
"""Numbers kept per token, width and layer of a text encoder."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU that holds everything."""

    weights: int
    trained: int
    """Weights among them that are trained."""
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    def by_zero_stage(self, stage: int, num_gpus: int) -> int:
        """Bytes a GPU where `num_gpus` share, by ZeRO stage (Rajbhandari et al. 2020, arXiv 1910.02054): from 1 on the
        optimiser's moments, from 2 on the gradients, at 3 the trained weights. Averages and activations stay whole."""
        shared = [self.optimizer, self.gradients, self.trained][:stage]
        return self.total - sum(shared) + sum(shared) // num_gpus


def memory_of(settings: DiffusionTrain, base: Path) -> Memory:
    """Raises UserError if a file of weights or a config of the diffusers folder `base` cannot be read."""
    parts: dict[str, Mapping[str, Tensor]] = {name: part_tensors(base, name) for name in PARTS}
    sizes = {name: sum(tensor.size for tensor in tensors.values()) for name, tensors in parts.items()}
    is_trained = {"unet": settings.train_unet, "text_encoder": settings.train_text_encoder}
    trained, extra = sum(sizes[name] for name, yes in is_trained.items() if yes), 0
    if settings.lora is not None:
        trained = extra = sum(_adapter(parts[name], settings.lora, name) for name, yes in is_trained.items() if yes)
    return Memory(
        weights=_BYTES * (sum(sizes.values()) + extra),
        trained=_BYTES * trained,
        gradients=_BYTES * trained,
        optimizer=2 * _BYTES * trained,
        average=_BYTES * trained if settings.ema_decay is not None else 0,
        activations=_activations(settings, base),
    )


def notes(settings: DiffusionTrain, base: Path) -> list[str]:
    """Lines for a plan."""
    found, at_once = memory_of(settings, base), settings.at_once
    named = {"weights": found.weights, "gradients": found.gradients, "AdamW": found.optimizer, "EMA": found.average}
    words = ", ".join(f"{name} {_gib(value)}" for name, value in named.items())
    stages = ", ".join(f"{stage}: {_gib(found.by_zero_stage(stage, NUM_GPUS))}" for stage in range(4))
    return [
        f"memory of one GPU {_gib(found.total)} GiB: {words}, activations of {at_once} at once about "
        f"{_gib(found.activations)} (float32)",
        f"memory of each of {NUM_GPUS} GPUs by ZeRO stage, in GiB: {stages}",
        *([_of_ranks(settings, settings.ranks, found)] if settings.ranks else []),
    ]


def _of_ranks(settings: DiffusionTrain, ranks: DiffusionRanks, found: Memory) -> str:
    share, each = settings.batch_size // ranks.num, found.by_zero_stage(ranks.zero, ranks.num)
    if ranks.offload:
        each -= found.optimizer // ranks.num
    elif ranks.zero:
        each += found.trained // ranks.num  # DeepSpeed steps on a copy of what is a rank's own
    parts = math.ceil(share / settings.at_once)
    return (
        f"{ranks.num} ranks ({ranks.nodes} x {ranks.per_node}), ZeRO {ranks.zero}: each has {share} of "
        f"{settings.batch_size} images a step, in {parts} part{'s' * (parts > 1)} of at most {settings.at_once}; "
        f"memory of its GPU {_gib(each)} GiB"
    )


def _activations(settings: DiffusionTrain, base: Path) -> int:
    unet, text = (read_json(base / part / "config.json") for part in ("unet", "text_encoder"))
    residual, attention, largest = _outputs(unet)
    if settings.gradient_checkpointing:
        # Besides the inputs, all of the one layer whose turn it is.
        numbers = _CHECKPOINTED[0] * residual + _CHECKPOINTED[1] * attention + 2 * _PLAIN * largest
    else:
        numbers = _PLAIN * (residual + attention)
    if settings.train_text_encoder:
        layers = 1 if settings.gradient_checkpointing else int(text["num_hidden_layers"])
        numbers += _TEXT * layers * MAX_TOKENS * int(text["hidden_size"])
    return round(_BYTES * settings.at_once * numbers)


def _outputs(unet: Mapping[str, Any]) -> tuple[int, int, int]:
    """Numbers that residual and attention layers put out for one image, and the largest layer's."""
    channels, layers, side = unet["block_out_channels"], unet["layers_per_block"], int(unet["sample_size"])
    layers = max(layers) if isinstance(layers, list) else int(layers)
    each = [width * (side >> level) ** 2 for level, width in enumerate(channels)]
    # As many layers on the way down, one more on the way up, and in the middle two and one.
    residual = sum((2 * layers + 1) * num for num in each) + 2 * each[-1]
    crossed = (num for num, kind in zip(each, unet["down_block_types"], strict=True) if "CrossAttn" in kind)
    return residual, sum((2 * layers + 1) * num for num in crossed) + each[-1], max(each)


def _adapter(tensors: Mapping[str, Tensor], lora: Lora, part: str) -> int:
    """Numbers of the adapters of a part: `rank` columns for each side of every layer that gets one."""
    ends = tuple(f"{name}.weight" for name in (lora.unet_targets if part == "unet" else lora.text_encoder_targets))
    return sum(lora.rank * sum(tensor.shape[:2]) for name, tensor in tensors.items() if name.endswith(ends))


def _gib(number: int) -> str:
    gib = number / 2**30
    return f"{gib:.1f}" if gib >= 1 or not gib else f"{gib:.2g}"

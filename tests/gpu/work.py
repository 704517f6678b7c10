"""How much a model has to compute for one image, counted by torch on tensors without content."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from cxr_core.data.prompts import MAX_TOKENS
from cxr_core.models.presets import Preset


def forward_gflop(preset: Preset) -> float:
    """A forward pass of the UNet: multiplications and additions, counted twice, as is usual."""
    with torch.no_grad():
        return _gflop(_predicted, preset)


def train_gflop(preset: Preset) -> float:
    """Forward and backward through the UNet."""
    return _gflop(lambda preset: _predicted(preset).sum().backward(), preset)


@torch.no_grad()
def encode_gflop(preset: Preset) -> float:
    """The VAE's encoder."""
    side = preset.image_size
    return _gflop(lambda preset: AutoencoderKL(**preset.vae).encode(torch.empty(1, 3, side, side)), preset)


@torch.no_grad()
def decode_gflop(preset: Preset) -> float:
    """The VAE's decoder."""
    side = preset.unet["sample_size"]
    return _gflop(lambda preset: AutoencoderKL(**preset.vae).decode(torch.empty(1, 4, side, side)), preset)


def _predicted(preset: Preset) -> torch.Tensor:
    side, width = preset.unet["sample_size"], preset.unet["cross_attention_dim"]
    unet = UNet2DConditionModel(**preset.unet)
    predicted: torch.Tensor = unet(
        torch.empty(1, 4, side, side), torch.zeros(1), torch.empty(1, MAX_TOKENS, width)
    ).sample
    return predicted


def _gflop(compute: Callable[[Preset], Any], preset: Preset) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        compute(preset)
    return counter.get_total_flops() / 1e9

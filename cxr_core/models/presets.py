"""Sizes of models as plain data: Stable Diffusion's parts, and classifiers. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cxr_core.data.prompts import MAX_TOKENS

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """One size: images of `image_size` pixels, and the config of each part as diffusers and transformers take it."""

    name: str
    image_size: int
    num_parameters: int
    vae: Config
    unet: Config
    text_encoder: Config
    scheduler: Config

    @property
    def num_bytes(self) -> int:
        """Bytes of a checkpoint in float32, without its few small files."""
        return 4 * self.num_parameters


def _vae(image_size: int, channels: tuple[int, ...], *, layers: int, groups: int, attention: bool) -> Config:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "sample_size": image_size,
        "mid_block_add_attention": attention,
    }


def _unet(
    latent_size: int,
    channels: tuple[int, ...],
    attention: tuple[bool, ...],
    heads: tuple[int, ...],
    *,
    layers: int,
    groups: int,
    text: int,
    linear_projection: bool = False,
) -> Config:
    down = tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention)
    up = tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention))
    return {
        "sample_size": latent_size,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "cross_attention_dim": text,
        "attention_head_dim": heads,  # diffusers' name, but of the number of heads
        "use_linear_projection": linear_projection,
    }


def _text(width: int, layers: int, heads: int, *, act: str = "gelu", vocab_size: int | None = None) -> Config:
    sized = {} if vocab_size is None else {"vocab_size": vocab_size}
    return sized | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": act,
        "projection_dim": width,
    }


def _scheduler(prediction: str, **more: Any) -> Config:
    """Stable Diffusion's noise: 1000 steps, betas linear in their square root from 0.00085 to 0.012."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **more,
    }


NANO = Preset(
    name="nano",
    image_size=32,
    num_parameters=352_883,
    vae=_vae(32, (8, 16, 16), layers=1, groups=4, attention=False),
    unet=_unet(8, (16, 32), (False, True), (1, 2), layers=1, groups=8, text=32),
    text_encoder=_text(32, 1, 2),
    scheduler=_scheduler("v_prediction"),
)
"""For tests: learns nothing worth seeing, in seconds."""

TINY = Preset(
    name="tiny",
    image_size=64,
    num_parameters=5_072_875,
    vae=_vae(64, (16, 16, 48), layers=1, groups=8, attention=False),
    unet=_unet(16, (32, 64, 128), (False, True, True), (1, 2, 4), layers=1, groups=8, text=128),
    text_encoder=_text(128, 2, 4),
    scheduler=_scheduler("v_prediction"),
)
"""For a CPU: at most 6 million parameters in all."""

SD21_BASE = Preset(
    name="sd21-base",
    image_size=512,
    num_parameters=865_910_724 + 340_387_840 + 83_653_863,
    vae=_vae(512, (128, 256, 512, 512), layers=2, groups=32, attention=True),
    unet=_unet(
        64,
        (320, 640, 1280, 1280),
        (True, True, True, False),
        (5, 10, 20, 20),
        layers=2,
        groups=32,
        text=1024,
        linear_projection=True,
    ),
    text_encoder=_text(1024, 23, 16, vocab_size=49408),
    scheduler=_scheduler("epsilon"),
)
"""Stable Diffusion 2.1-base as published by Stability AI; its weights are a folder of the user's."""

PRESETS = {preset.name: preset for preset in (NANO, TINY, SD21_BASE)}


@dataclass(frozen=True)
class ClassifierPreset:
    """One size of classifier. Without `channels` (of the stages, each of half the resolution) it is a library's own."""

    name: str
    feature_width: int
    num_parameters: int
    """Without the outputs, each of which has feature_width + 1."""
    least_image_size: int
    least_batch: int = 1
    channels: tuple[int, ...] = ()

    def num_bytes(self, num_findings: int) -> int:
        """Bytes of a checkpoint in float32, without its small file."""
        return 4 * (self.num_parameters + num_findings * (self.feature_width + 1))


SMALL = ClassifierPreset(
    name="small",
    feature_width=64,
    num_parameters=227_184,
    least_image_size=16,
    channels=(16, 32, 64, 64),
)
"""For a CPU and images of 32 to 128 pixels."""

RESNET18 = ClassifierPreset(
    name="resnet18",
    feature_width=512,
    num_parameters=11_171_136,
    least_image_size=32,
    least_batch=2,  # as DENSENET121
)
"""Of another architecture than the two others, so that a gate and a judge need not be of one: a GPU, or much time."""

DENSENET121 = ClassifierPreset(
    name="densenet121",
    feature_width=1024,
    num_parameters=6_947_584,
    least_image_size=32,
    # BatchNorm in training: over one image that has shrunk to one pixel there is no variance.
    least_batch=2,
)
"""The usual judge of chest X-rays, for a GPU."""

ClassifierName: TypeAlias = Literal["small", "resnet18", "densenet121"]

CLASSIFIERS = {preset.name: preset for preset in (SMALL, RESNET18, DENSENET121)}

"""The sampler: a Stable Diffusion folder, prompts and per-image noise become grey images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from cxr_core.errors import UserError
from cxr_core.generation.noise import generators, initial_latents
from cxr_core.models.attention import overflows, upcast, use_xformers
from cxr_core.models.stable_diffusion import load, tokenize

_DECODE_AT_ONCE = 8
"""Images in one VAE decode: at 512 px it needs gigabytes each. Fixed, since the last bit of a pixel may hang on it."""


@dataclass(frozen=True)
class Model:
    """The parts of a StableDiffusionPipeline that sampling needs, on one device and in one number format.

    CLIPTokenizer, CLIPTextModel, UNet2DConditionModel, AutoencoderKL and the scheduler's config.
    """

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Mapping[str, Any]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image's latents."""
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side


def load_model(
    folder: Path, dtype: str, *, channels_last: bool = False, compiled: bool = False, attention: str = "sdpa"
) -> Model:
    """Open a diffusers folder on the GPU if there is one, else on the CPU. Kept for the next shard.

    Attention that overflows in float16 is computed in float32. Raises UserError where the model is to be `compiled`, or
    to have the `attention` of xformers, and there is no GPU.
    """
    return _load(folder, dtype, channels_last, compiled, attention)


def forget_model() -> None:
    """Let go of the model that `load_model` keeps."""
    _load.cache_clear()


@lru_cache(maxsize=1)
def _load(folder: Path, dtype: str, channels_last: bool, compiled: bool, attention: str) -> Model:
    has_gpu = torch.cuda.is_available()
    if compiled and not has_gpu:
        raise UserError("compile: true needs a GPU, and torch sees none", mend="set compile: false")
    pipeline = load(folder).to("cuda" if has_gpu else "cpu", getattr(torch, dtype))
    unet, vae = pipeline.unet, pipeline.vae
    for part in (pipeline.text_encoder, unet, vae):
        part.eval().requires_grad_(False)
    is_half = dtype == "float16"
    if attention == "xformers":
        use_xformers(unet, is_half=is_half, where=str(folder))
    elif is_half and overflows(unet):
        upcast(unet)
    if channels_last:
        unet, vae = (part.to(memory_format=torch.channels_last) for part in (unet, vae))
    if compiled:
        unet, vae.decoder = torch.compile(unet), torch.compile(vae.decoder)
    return Model(pipeline.tokenizer, pipeline.text_encoder, unet, vae, dict(pipeline.scheduler.config))


def make_scheduler(config: Mapping[str, Any], name: str) -> Any:
    """A sampler with the noise schedule and prediction type that the model was trained with.

    Two defaults of diffusers are set here, so that pixels never hang on which of them a saved config spells out.
    Clipping is off: it is meant for pixels in [-1, 1] and is on by default in DDIM and DDPM, but latents exceed 1.
    DPM-Solver++ spaces its steps evenly over all timesteps (its own default); "leading" would never see pure noise.
    """
    if name == "dpmsolver++":
        return DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", timestep_spacing="linspace"
        )
    kind = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[name]
    return kind.from_config(config, clip_sample=False)


@torch.inference_mode()
def encode_prompts(model: Model, prompts: Iterable[str]) -> dict[str, torch.Tensor]:
    """Text embeddings (1, tokens, width) of each different prompt.

    One at a time, so that an embedding is a function of its prompt and never of the others in the shard.
    """
    return {prompt: _encode(model, prompt) for prompt in dict.fromkeys(prompts)}


def _encode(model: Model, prompt: str) -> torch.Tensor:
    tokens = tokenize(model.tokenizer, [prompt])
    return model.text_encoder(tokens.to(model.unet.device))[0]


def sample_rows(
    model: Model, texts: Mapping[str, torch.Tensor], rows: Sequence[Mapping[str, Any]], **how: Any
) -> torch.Tensor:
    """`sample` of rows with a `prompt` and a `seed` each. `texts` holds their embeddings and that of the empty text."""
    prompts, seeds = [row["prompt"] for row in rows], [int(row["seed"]) for row in rows]
    return sample(model, torch.cat([texts[prompt] for prompt in prompts]), texts[""], seeds, **how)


@torch.inference_mode()
def sample(
    model: Model,
    embeddings: torch.Tensor,
    unconditional: torch.Tensor,
    seeds: Sequence[int],
    *,
    scheduler: str,
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Denoise one batch. Returns latents (num_images, channels, height, width) in the model's number format.

    `embeddings` is (num_images, tokens, width), `unconditional` (1, tokens, width). With `guidance` > 1 both
    predictions are made in one forward pass and combined as u + guidance * (c - u) (Ho and Salimans 2022, eq. 6).
    """
    sources = generators(seeds)
    solver = make_scheduler(model.scheduler, scheduler)
    solver.set_timesteps(steps, device=model.unet.device)
    latents = initial_latents(sources, model.latent_shape).to(model.unet.device, model.unet.dtype)
    latents = latents * solver.init_noise_sigma
    guided = guidance > 1
    text = torch.cat([unconditional.expand_as(embeddings), embeddings]) if guided else embeddings
    for timestep in solver.timesteps:
        noisy = solver.scale_model_input(torch.cat([latents, latents]) if guided else latents, timestep)
        predicted = model.unet(noisy, timestep, encoder_hidden_states=text, return_dict=False)[0]
        if guided:
            without, given = predicted.chunk(2)
            predicted = without + guidance * (given - without)
        latents = solver.step(predicted, timestep, latents, generator=sources, return_dict=False)[0]
    return latents


@torch.inference_mode()
def decode(model: Model, latents: torch.Tensor) -> np.ndarray:
    """Grey images float32 (num_images, height, width), nominally 0..255, not yet rounded; NaN where the model failed.

    The mean of the VAE's channels, each first clamped to its range as the pipeline does.
    """
    scaled = latents / model.vae.config.scaling_factor
    parts = [model.vae.decode(part, return_dict=False)[0] for part in scaled.split(_DECODE_AT_ONCE)]
    colours = torch.cat(parts).float().add(1).div(2).clamp(0, 1)
    return colours.mul(255).mean(dim=1).cpu().numpy()

"""The sampler: a Stable Diffusion folder, prompts and per-image noise become grey images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, SchedulerMixin

from cxr_core.errors import UserError
from cxr_core.models.attention import overflows, upcast, use_xformers
from cxr_core.models.noise import Mt19937, Philox, open_noise
from cxr_core.models.noise_schedule import schedule_of
from cxr_core.models.solver import Solver, ancestral_step, inherited, make_solver
from cxr_core.models.solver_options import NOISE, Noise, Scheduler, solver_options
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
        raise UserError("compile: true needs a GPU, and torch sees none", hint="set compile: false")
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


def make_scheduler(config: Mapping[str, Any], name: Scheduler, *, steps: int = 1) -> Solver:
    """The solver of this name for a model with this scheduler config, of which only the noise schedule is taken."""
    return make_solver(name, solver_options(name, schedule_of(config), steps))


def recorded(made: Mapping[str, Any], options: Mapping[str, Any] | None, model: Model) -> dict[str, Any]:
    """How `sample` is called by what images record (`made`) and their series (the solver's `options`).

    Records of older versions name no noise, and none of the options: those came from the model's own config.
    """
    name = made["scheduler"]
    solver = inherited(name, model.scheduler) if options is None else make_solver(name, options)
    known = {key: made[key] for key in ("steps", "guidance")}
    return {"scheduler": solver, "noise": made.get("noise", "mt19937"), **known}


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
    scheduler: Scheduler | Solver,
    steps: int,
    guidance: float,
    noise: Noise = NOISE,
) -> torch.Tensor:
    """Denoise one batch. Returns latents (num_images, channels, height, width) in the model's number format.

    `embeddings` is (num_images, tokens, width), `unconditional` (1, tokens, width). With `guidance` > 1 both
    predictions are made in one forward pass and combined as u + guidance * (c - u) (Ho and Salimans 2022, eq. 6).
    """
    solver = _solver(model, scheduler, steps)
    solver.set_timesteps(steps, device=model.unet.device)
    source = open_noise(noise, seeds, model.latent_shape)
    latents = source.draw().to(model.unet.device, model.unet.dtype)
    latents = latents * solver.init_noise_sigma
    guided = guidance > 1
    text = torch.cat([unconditional.expand_as(embeddings), embeddings]) if guided else embeddings
    for timestep in solver.timesteps:
        noisy = solver.scale_model_input(torch.cat([latents, latents]) if guided else latents, timestep)
        predicted = model.unet(noisy, timestep, encoder_hidden_states=text, return_dict=False)[0]
        if guided:
            without, given = predicted.chunk(2)
            predicted = without + guidance * (given - without)
        latents = _step(solver, source, predicted, timestep, latents)
    return latents


def _solver(model: Model, scheduler: Scheduler | Solver, steps: int) -> Solver:
    is_made = isinstance(scheduler, SchedulerMixin)
    return scheduler if is_made else make_scheduler(model.scheduler, scheduler, steps=steps)


def _step(
    solver: Solver, source: Philox | Mt19937, predicted: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    if isinstance(source, Mt19937):
        return solver.step(predicted, timestep, latents, generator=source.sources, return_dict=False)[0]
    if isinstance(solver, DDPMScheduler):
        return ancestral_step(solver, predicted, timestep, latents, source.draw().to(latents))
    return solver.step(predicted, timestep, latents, return_dict=False)[0]


@torch.inference_mode()
def decode(model: Model, latents: torch.Tensor) -> np.ndarray:
    """Grey images float32 (num_images, height, width), nominally 0..255, not yet rounded; NaN where the model failed.

    The mean of the VAE's channels, each first clamped to its range as the pipeline does.
    """
    scaled = latents / model.vae.config.scaling_factor
    parts = [model.vae.decode(part, return_dict=False)[0] for part in scaled.split(_DECODE_AT_ONCE)]
    colours = torch.cat(parts).float().add(1).div(2).clamp(0, 1)
    return colours.mul(255).mean(dim=1).cpu().numpy()

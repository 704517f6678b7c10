"""The solver: diffusers' scheduler of a name, with options that are all given, or as a model's config has them."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, TypeAlias

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from cxr_core.errors import UserError
from cxr_core.models.solver_options import Scheduler

_CLASSES = {"dpmsolver++": DPMSolverMultistepScheduler, "ddim": DDIMScheduler, "ddpm": DDPMScheduler}

Solver: TypeAlias = Any
"""One of diffusers' three, which have no types."""


def make_solver(name: Scheduler, options: Mapping[str, Any]) -> Solver:
    """A solver with exactly these options, see `solver_options`. Raises UserError for some that its library lacks."""
    kind = _CLASSES[name]
    if unknown := sorted(options.keys() - signature(kind).parameters.keys()):
        raise UserError(
            f"the installed diffusers has no {', '.join(unknown)} of {kind.__name__}",
            where="about.series[].solver",
            hint="draw with the version of the suite that recorded them",
        )
    return kind(**options)


def inherited(name: Scheduler, config: Mapping[str, Any]) -> Solver:
    """As images were drawn whose record tells no options: whatever a model's config says, but for two of them."""
    if name == "dpmsolver++":
        own: dict[str, Any] = {"algorithm_type": "dpmsolver++", "timestep_spacing": "linspace"}
    else:
        own = {"clip_sample": False}
    return _CLASSES[name].from_config(config, **own)


def ancestral_step(
    solver: Solver, predicted: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """One step of DDPM: the posterior's mean (Ho et al. 2020, arXiv 2006.11239, eq. 7) and its spread times `noise`.

    What `solver.step` does with `variance_type` fixed_small, but that takes noise from torch's generators alone.
    """
    before = solver.previous_timestep(timestep)
    kept = solver.alphas_cumprod[timestep]
    kept_before = solver.alphas_cumprod[before] if before >= 0 else solver.one
    kept_now = kept / kept_before
    image = _image(solver.config["prediction_type"], predicted, latents, kept)
    of_image = kept_before**0.5 * (1 - kept_now) / (1 - kept)
    of_latents = kept_now**0.5 * (1 - kept_before) / (1 - kept)
    variance = (1 - kept_before) / (1 - kept) * (1 - kept_now)
    return of_image * image + of_latents * latents + variance**0.5 * noise


def _image(kind: str, predicted: torch.Tensor, latents: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """What a prediction says of the latents without noise, of whose variance `kept` is still there."""
    if kind == "sample":
        return predicted
    if kind == "v_prediction":
        return kept**0.5 * latents - (1 - kept) ** 0.5 * predicted
    return (latents - (1 - kept) ** 0.5 * predicted) / kept**0.5

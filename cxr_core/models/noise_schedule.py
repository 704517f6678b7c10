"""The noise that a diffusion model was trained with, as its scheduler's config tells it, and nothing else of that file.

A saved config also holds how somebody last drew with the model (Karras' sigmas, spacing of the steps, clipping ...).
That is no property of the model: it is read by nobody here. Torch is not imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import PositiveInt, ValidationError, model_validator

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json
from cxr_core.settings import Settings

FILE = Path("scheduler") / "scheduler_config.json"

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class NoiseSchedule(Settings):
    """How much noise there is at which time, and what the model says of it. Names and meaning are as in diffusers."""

    num_train_timesteps: PositiveInt
    """Times."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    """How the betas grow."""
    beta_start: float
    """The first one."""
    beta_end: float
    """The last one."""
    trained_betas: tuple[float, ...] | None = None
    """All of them, in place of the three above."""
    prediction_type: PredictionType
    """What the model predicts: the noise, the velocity (Salimans and Ho 2022, arXiv 2202.00512) or the image."""
    rescale_betas_zero_snr: bool = False
    """Whether the last time is noise alone (Lin et al. 2023, arXiv 2305.08891)."""

    @model_validator(mode="after")
    def _a_beta_each(self) -> Self:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"{len(self.trained_betas)} trained_betas for {self.num_train_timesteps} timesteps")
        return self


_USUAL = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_OF_TWO = {**_LATENT, "beta_schedule": "linear"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": _USUAL,
    "DDIMParallelScheduler": _USUAL,
    "DDPMScheduler": _USUAL,
    "DDPMParallelScheduler": _USUAL,
    "DEISMultistepScheduler": _USUAL,
    "DPMSolverMultistepScheduler": _USUAL,
    "DPMSolverSinglestepScheduler": _USUAL,
    "EulerAncestralDiscreteScheduler": _USUAL,
    "EulerDiscreteScheduler": _USUAL,
    "LMSDiscreteScheduler": _USUAL,
    "PNDMScheduler": _USUAL,
    "SASolverScheduler": _USUAL,
    "UniPCMultistepScheduler": _USUAL,
    "HeunDiscreteScheduler": _OF_TWO,
    "KDPM2AncestralDiscreteScheduler": _OF_TWO,
    "KDPM2DiscreteScheduler": _OF_TWO,
    "LCMScheduler": _LATENT,
    "TCDScheduler": _LATENT,
}
"""What the schedulers of diffusers take where their config gives no betas: it differs from class to class."""

_OF_OTHERS = {
    "use_flow_sigmas": (True, "a flow model"),
    "prediction_type": ("flow_prediction", "a flow model"),
    "timestep_type": ("continuous", "a model of continuous noise levels (EDM)"),
}
"""Options that are a property of the model and not of drawing, with the value that we do not know how to draw."""


def schedule_of(config: Mapping[str, Any], *, where: str = str(FILE)) -> NoiseSchedule:
    """The schedule in a scheduler's config. Raises UserError naming `where` if it is none of discrete betas."""
    name = str(config.get("_class_name"))
    for key, (value, words) in _OF_OTHERS.items():
        if config.get(key) == value:
            raise _unknown(f"{words} ({key}: {value})", where)
    given = {key: config[key] for key in NoiseSchedule.model_fields if key in config}
    if name not in _DEFAULTS and not given.keys() >= _USUAL.keys():
        raise _unknown(f"a model of {name}, which has no betas", where)
    try:
        return NoiseSchedule.model_validate(
            {"num_train_timesteps": 1000, "prediction_type": "epsilon", **_DEFAULTS.get(name, {}), **given}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise _unknown(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where) from error


def read_schedule(folder: Path) -> NoiseSchedule:
    """That of a diffusers folder. Raises UserError as `schedule_of`, or where the file is missing or damaged."""
    path = folder / FILE
    try:
        config = read_json(path)
        if not isinstance(config, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the model's noise schedule cannot be read ({error})",
            where=str(path),
            hint="copy the file from the folder that the model was published in",
        ) from error
    return schedule_of(config, where=str(path))


def _unknown(what: str, where: str) -> UserError:
    return UserError(
        f"cannot train and draw with this noise schedule: {what}",
        where=where,
        hint="take a Stable Diffusion with discrete betas that predicts epsilon, v_prediction or sample",
    )

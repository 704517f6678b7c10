"""Every option of a solver that decides a pixel: the model's noise schedule, and what is set here. Without torch."""

from typing import Any, Literal, TypeAlias

from cxr_core.errors import UserError
from cxr_core.models.noise_schedule import NoiseSchedule

Scheduler: TypeAlias = Literal["dpmsolver++", "ddim", "ddpm"]
"""The solvers, of which a generate stage names one."""
Noise: TypeAlias = Literal["philox", "mt19937"]
NOISE: Noise = "philox"
"""What makes noise of the seeds of new images; a record that names none is of the older mt19937."""

_NO_CLIPPING = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
"""Meant for pixels in [-1, 1]; latents exceed 1."""
_DENOISING = {**_NO_CLIPPING, "clip_sample": False, "clip_sample_range": 1.0}
_DPM_SOLVER = {
    **_NO_CLIPPING,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -1e9,  # below that of any noise: clips nothing
    "variance_type": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
    # Evenly over all times, from pure noise on.
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}


def solver_options(
    name: Scheduler, schedule: NoiseSchedule, steps: int, *, where: str = "denoising_steps"
) -> dict[str, Any]:
    """All arguments of diffusers' scheduler of this name; `dataset.json` records them for each series.

    Raises UserError naming `where` for more steps than go into the times that the model knows.
    """
    # DPM-Solver++ divides by the distance of two steps, and begins at the last time but ends before the first.
    most = schedule.num_train_timesteps - (name == "dpmsolver++")
    if steps > most:
        raise UserError(
            f"{steps} steps of {name}, but the model knows {schedule.num_train_timesteps} times",
            where=where,
            hint=f"set denoising_steps to {most} or less",
        )
    own = schedule.model_dump(mode="json")
    if name == "dpmsolver++":
        return own | _DPM_SOLVER
    spaced = own | _DENOISING | _spacing(schedule, steps)
    return spaced | ({"set_alpha_to_one": False} if name == "ddim" else {"variance_type": "fixed_small"})


def _spacing(schedule: NoiseSchedule, steps: int) -> dict[str, Any]:
    """The times of DDIM and DDPM, as Stable Diffusion was published with them: 1, 51, 101 ...

    Trained on noise alone, a model has to be asked there first (Lin et al. 2023, arXiv 2305.08891, section 3.3);
    of epsilon alone no image follows there. Where every time is a step there is no room for an offset.
    """
    if schedule.rescale_betas_zero_snr and schedule.prediction_type != "epsilon":
        return {"timestep_spacing": "trailing", "steps_offset": 0}
    return {"timestep_spacing": "leading", "steps_offset": int(steps < schedule.num_train_timesteps)}

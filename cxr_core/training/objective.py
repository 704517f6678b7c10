"""What is minimised: the denoiser's error for any prediction type, and the autoencoder's.

`scheduler` is a DDPMScheduler of diffusers; latents and noise are (n, channels, height, width).
"""

from typing import Any

import torch
import torch.nn.functional as F

from cxr_core.errors import UserError

EDGE_SCALES = 3
"""Scales (1, 1/2, 1/4) at which the autoencoder's edges are compared."""


def noisy(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (Ho et al. 2020, arXiv 2006.11239, eq. 4); `steps` is int64 (n,)."""
    return scheduler.add_noise(latents, noise, steps)


def target(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """What the denoiser is to predict, by the scheduler's prediction type.

    epsilon: the noise; sample: x_0; v_prediction: sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans and Ho 2022,
    arXiv 2202.00512, appendix D). Raises UserError for another type.
    """
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return latents
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, steps)
    raise UserError(
        f"prediction_type {kind!r} cannot be trained",
        where="scheduler/scheduler_config.json of the base",
        hint="use epsilon, v_prediction or sample",
    )


def min_snr_weights(scheduler: Any, steps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weight of each image's squared error by min-SNR (Hang et al. 2023, arXiv 2303.09556, section 3.4): float32 (n,).

    That of an error in x_0 is min(SNR, gamma), with SNR = a_t / (1 - a_t). An error in the noise is SNR times, one in
    the velocity SNR + 1 times that in x_0, so the weight is divided by it; it is never 0 / 0 where no signal is left.
    """
    kept = scheduler.alphas_cumprod.to(steps.device, torch.float32)[steps]
    ratio = kept / (1 - kept)
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return (gamma / ratio).clamp(max=1)
    return ratio.clamp(max=gamma) / (ratio + 1 if kind == "v_prediction" else 1)


def squared_error(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image: float32 (n,)."""
    return (predicted.float() - wanted.float()).square().flatten(1).mean(1)


def edge_error(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 distance between horizontal and vertical differences of neighbours at `EDGE_SCALES` scales, summed: scalar.

    Images (n, channels, height, width). Where pixels alone are compared, blur is cheap.
    """
    difference, total = made - real, made.new_zeros(())
    for scale in range(EDGE_SCALES):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, 1), mean over all latents: scalar.

    Kingma and Welling 2014, arXiv 1312.6114, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()

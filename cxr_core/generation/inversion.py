"""Latents of real images: what a PG-GAN has to be given to draw them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cxr_core.generation.bank_settings import InvertStage
from cxr_core.models.pggan import PgGan, pixel_norm
from cxr_core.seeds import derive_seed
from cxr_core.training.pixels import to_pixels


@dataclass(frozen=True)
class Found:
    """Latents float32 (n, latent_width) and the mean squared error of what they draw, of grey values in 0..1: (n,)."""

    latents: np.ndarray
    errors: np.ndarray


def find(model: PgGan, images: np.ndarray, settings: InvertStage, seeds: Sequence[int]) -> Found:
    """Latents of images uint8 (n, side, side); `seeds` gives each image where its searches start."""
    pixels = as_pixels(model, images)
    if settings.method == "features":
        latents = project(model, pixels)
    else:
        starts = [_starts(model, seeds, restart) for restart in range(settings.restarts)]
        latents = _best([_search(model, pixels, start, settings) for start in starts], _errors_of(model, pixels))
    return Found(latents.cpu().numpy(), _errors_of(model, pixels)(latents).cpu().numpy())


def as_pixels(model: PgGan, images: np.ndarray) -> torch.Tensor:
    """uint8 (n, side, side) to float32 (n, channels, side, side) in the range that the model draws in."""
    lowest = model.info.lowest
    unit = to_pixels(images, model.info.channels).add(1).div(2).to(model.device)
    return unit * (1 - lowest) + lowest


@torch.no_grad()
def project(model: PgGan, pixels: torch.Tensor) -> torch.Tensor:
    """The discriminator's features as latents, which have the same width (the study's way)."""
    return pixel_norm(model.discriminator.features(pixels, model.info.scale))


def _starts(model: PgGan, seeds: Sequence[int], restart: int) -> torch.Tensor:
    width = model.info.latent_width
    sources = [torch.Generator().manual_seed(derive_seed(seed, "restart", restart)) for seed in seeds]
    return torch.stack([torch.randn(width, generator=source) for source in sources]).to(model.device)


def _search(model: PgGan, pixels: torch.Tensor, start: torch.Tensor, settings: InvertStage) -> torch.Tensor:
    """Adam on the latents of all images; the sum of their losses, so that none hangs on the others."""
    latents, info = pixel_norm(start).requires_grad_(True), model.info
    with torch.no_grad():
        wanted = model.discriminator.features(pixels, info.scale)
        size = wanted.square().mean(dim=1)
    adam = torch.optim.Adam([latents], lr=settings.learning_rate)
    for _ in range(settings.steps):
        adam.zero_grad()
        drawn = model.generator(latents, info.scale, info.fade)
        loss = (drawn - pixels).square().mean(dim=(1, 2, 3))
        if settings.feature_weight:
            features = model.discriminator.features(drawn, info.scale)
            loss = loss + settings.feature_weight * (features - wanted).square().mean(dim=1) / size
        loss.sum().backward()
        adam.step()
    # The generator normalises its latents, so their length says nothing; all are kept at the same one.
    return pixel_norm(latents.detach())


def _errors_of(model: PgGan, pixels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    wanted = model.as_grey(pixels)
    return lambda latents: F.mse_loss(model.draw(latents), wanted, reduction="none").mean(dim=(1, 2)) / 255**2


def _best(found: Sequence[torch.Tensor], errors_of: Any) -> torch.Tensor:
    """Of each image the latents with the least error."""
    errors = torch.stack([errors_of(latents) for latents in found])
    chosen = errors.argmin(dim=0)
    return torch.stack(list(found))[chosen, torch.arange(len(chosen), device=chosen.device)]

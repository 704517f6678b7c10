"""Latents of real images: what a PG-GAN has to be given to draw them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from cxr_core.generation.bank_settings import InvertStage
from cxr_core.models.pggan import PgGan, pixel_norm
from cxr_core.models.pixels import to_pixels
from cxr_core.seeds import derive_seed

_AT_ONCE = 32
"""Candidates that are drawn together."""
_COARSE = 64
"""Pixels a side, at most, at which candidates are compared with an image: hundreds of large ones would fill memory."""


@dataclass(frozen=True)
class FoundLatents:
    """Latents float32 (n, latent_width) and the mean squared error of what they draw, of grey values in 0..1: (n,)."""

    latents: np.ndarray
    errors: np.ndarray


class Inverter:
    """Finds latents of real images. What is found of an image hangs on model, settings and seed, on no other image."""

    def __init__(self, model: PgGan, settings: InvertStage, seed: int) -> None:
        self.model, self.settings, self.seed = model, settings, seed

    def find(self, images: np.ndarray) -> FoundLatents:
        """Latents of images uint8 (n, side, side)."""
        pixels = as_pixels(self.model, images)
        if self.settings.method == "features":
            latents = project(self.model, pixels)
        else:
            latents = _best([self._search(pixels, start) for start in self._starts(pixels)], self._errors_of(pixels))
        return FoundLatents(latents.cpu().numpy(), self._errors_of(pixels)(latents).cpu().numpy())

    def drawn(self, latents: np.ndarray) -> np.ndarray:
        """What latents (n, latent_width) draw: uint8 (n, side, side)."""
        return self.model.draw(torch.from_numpy(latents)).round().byte().cpu().numpy()

    @cached_property
    def _candidates(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Random latents, the same for every image, and what they draw, coarse and in rows."""
        source = torch.Generator().manual_seed(derive_seed(self.seed, "candidates"))
        latents = torch.randn(self.settings.candidates, self.model.info.latent_width, generator=source)
        drawn = torch.cat([_coarse(self.model.draw(part)) for part in latents.split(_AT_ONCE)])
        return latents.to(self.model.device), drawn

    def _starts(self, pixels: torch.Tensor) -> torch.Tensor:
        """(restarts, n, latent_width): for each image the candidates that draw what is nearest to it."""
        latents, drawn = self._candidates
        wanted = _coarse(self.model.as_grey(pixels))
        far = torch.cdist(wanted, drawn, compute_mode="donot_use_mm_for_euclid_dist")
        return latents[far.topk(self.settings.restarts, largest=False).indices.T]

    def _search(self, pixels: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Adam on the latents of all images; the sum of their losses, so that none hangs on the others."""
        model, settings, info = self.model, self.settings, self.model.info
        latents = pixel_norm(start).requires_grad_(True)
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

    def _errors_of(self, pixels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        wanted = self.model.as_grey(pixels)
        drawn = self.model.draw
        return lambda latents: F.mse_loss(drawn(latents), wanted, reduction="none").mean(dim=(1, 2)) / 255**2


def as_pixels(model: PgGan, images: np.ndarray) -> torch.Tensor:
    """uint8 (n, side, side) to float32 (n, channels, side, side) in the range that the model draws in."""
    lowest = model.info.lowest
    unit = to_pixels(images, model.info.channels, model.device).add(1).div(2)
    return unit * (1 - lowest) + lowest


@torch.no_grad()
def project(model: PgGan, pixels: torch.Tensor) -> torch.Tensor:
    """The discriminator's features as latents, which have the same width (the study's way)."""
    return pixel_norm(model.discriminator.features(pixels, model.info.scale))


def _coarse(greys: torch.Tensor) -> torch.Tensor:
    """(n, side, side) to (n, pixels), of `_COARSE` pixels a side at most."""
    return F.avg_pool2d(greys[:, None], max(1, greys.shape[-1] // _COARSE)).flatten(1)


def _best(found: list[torch.Tensor], errors_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Of each image the latents with the least error."""
    chosen = torch.stack([errors_of(latents) for latents in found]).argmin(dim=0)
    return torch.stack(found)[chosen, torch.arange(len(chosen), device=chosen.device)]

"""Training of a PG-GAN: WGAN-GP at one scale after the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cxr_core.data.dataset import Dataset
from cxr_core.models import pggan
from cxr_core.models.pggan import PgGan, doubled, faded
from cxr_core.models.pggan_folder import PGGANS, PgganInfo, size_at
from cxr_core.models.pixels import to_pixels
from cxr_core.seeds import derive_seed
from cxr_core.training.data_order import DataOrder, stream
from cxr_core.training.growth import GrowthPosition, position_at
from cxr_core.training.pggan_settings import PgganTrain
from cxr_core.training.preview import PreviewImages

_MOST_IN_MEMORY = 2**30
"""Bytes of training images that are decoded once and kept; of more, each batch is decoded when it comes."""


def new_model(settings: PgganTrain, seed: int) -> PgGan:
    """The PG-GAN of a stage with random weights, on the CPU."""
    preset = PGGANS[settings.preset]
    info = PgganInfo(preset.latent_width, preset.widths, settings.channels, scale=len(preset.widths) - 1)
    return pggan.build(info, seed)


class PgganTask:
    """See `adversarial.AdversarialTask`. Trains both networks on the training images of a Dataset."""

    training_mode = False

    def __init__(self, model: PgGan, dataset: Dataset, settings: PgganTrain, seed: int) -> None:
        self.module, self.dataset, self.settings, self.seed = model, dataset, settings, seed
        self.num_parts = settings.num_ranks
        self.rows = dataset.of_split("train")
        self.order = DataOrder(len(self.rows), settings.batch_size, derive_seed(seed, "order"))
        fits = len(self.rows) * dataset.info.size**2 <= _MOST_IN_MEMORY
        self.kept = dataset.images(self.rows) if fits else None

    def loss(self, module: Any, step: int, part: int = 0) -> torch.Tensor:
        """Of the discriminator: how far it tells fakes from real images, its gradient's penalty, and its drift."""
        at = position_at(self.settings, step)
        places = self._places(at, part)
        real = self._real(at, places)
        with torch.no_grad():
            fake = module.generator(self._latents("discriminator", step, places), at.scale, at.fade)
        scores = module.discriminator(real, at.scale, at.fade)
        gap = module.discriminator(fake, at.scale, at.fade).mean() - scores.mean()
        between = faded(real, fake.float(), self._shares(step, places).to(real.device))
        with torch.autocast(real.device.type, enabled=False):  # squares of gradients overflow in half precision
            penalty = gradient_penalty(lambda images: module.discriminator(images, at.scale, at.fade), between)
        loss = gap + self.settings.gradient_penalty * penalty + self.settings.drift * scores.square().mean()
        return loss / self.num_parts

    def generator_loss(self, module: Any, step: int, part: int = 0) -> torch.Tensor:
        """Minus the mean score of fakes."""
        at = position_at(self.settings, step)
        module.discriminator.requires_grad_(False)
        try:
            latents = self._latents("generator", step, self._places(at, part))
            fake = module.generator(latents, at.scale, at.fade)
            return -module.discriminator(fake, at.scale, at.fade).mean() / self.num_parts
        finally:
            module.discriminator.requires_grad_(True)

    def log_values(self, step: int) -> dict[str, Any]:
        at = position_at(self.settings, step)
        return {"image_size": size_at(at.scale), "fade": at.fade}

    def examples(self, step: int) -> Sequence[str]:
        at = position_at(self.settings, step)
        return self.rows["image_id"].iloc[self._shown(at, range(at.batch_size))].tolist()

    def validation(self) -> dict[str, Any]:
        """None: a GAN has no loss that tells how good its images are."""
        return {"validation_loss": None}

    @torch.no_grad()
    def preview(self, step: int) -> PreviewImages:
        """What a few latents give, always the same ones, enlarged to the pixels of the last scale."""
        at = position_at(self.settings, step - 1)
        latents = self._normal(derive_seed(self.seed, "preview"), 0, range(self.settings.num_previews))
        greys = self.module.as_grey(self.module.generator(latents, at.scale, at.fade))
        times = self.module.info.image_size // greys.shape[-1]
        pixels = np.rint(greys.cpu().numpy()).astype(np.uint8).repeat(times, axis=1).repeat(times, axis=2)
        return PreviewImages([f"z{i + 1}" for i in range(len(pixels))], pixels[None])

    def before_export(self) -> None:
        """Nothing is measured for the export."""

    def export(self, folder: Path, step: int) -> None:
        """Write both networks, as far as they have grown."""
        at = position_at(self.settings, step - 1)
        about = {"dataset": self.dataset.info.digest, "steps": step, "images": self.settings.num_images(0, step)}
        pggan.save(self.module, folder, about, scale=at.scale, fade=at.fade)

    def _places(self, at: GrowthPosition, part: int) -> range:
        """Of a part in the global batch: whole groups, as the settings see to."""
        share = at.batch_size // self.num_parts
        return range(part * share, (part + 1) * share)

    def _shown(self, at: GrowthPosition, places: range) -> np.ndarray:
        """Rows of the real images there."""
        return self.order.rows(at.first_image + places.start, at.first_image + places.stop)

    def _real(self, at: GrowthPosition, places: range) -> torch.Tensor:
        """Real images at the scale, as sharp as the generator can draw them there."""
        shown = self._shown(at, places)
        images = self.dataset.images(self.rows.iloc[shown]) if self.kept is None else self.kept[shown]
        pixels = to_pixels(images, self.module.info.channels, self.module.device)
        pixels = F.avg_pool2d(pixels, pixels.shape[-1] // size_at(at.scale))
        return faded(pixels, doubled(F.avg_pool2d(pixels, 2)), at.fade) if at.fade < 1 else pixels

    def _latents(self, network: str, step: int, places: range) -> torch.Tensor:
        return self._normal(derive_seed(self.seed, "latents", network), step, places)

    def _normal(self, seed: int, step: int, places: range) -> torch.Tensor:
        width = self.module.info.latent_width
        draws = [stream(seed, step, place).standard_normal(width, np.float32) for place in places]
        return torch.from_numpy(np.stack(draws)).to(self.module.device)

    def _shares(self, step: int, places: range) -> torch.Tensor:
        seed = derive_seed(self.seed, "shares")
        draws = [stream(seed, step, place).random(dtype=np.float32) for place in places]
        return torch.tensor(draws)[:, None, None, None]


def gradient_penalty(score: Any, images: torch.Tensor) -> torch.Tensor:
    """Mean over images of (norm of the score's gradient - 1) squared (WGAN-GP, arXiv 1704.00028, eq. 3)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(images).sum(), images, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

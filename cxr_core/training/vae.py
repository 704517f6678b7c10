"""Training of the autoencoder: images to latents and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.models import stable_diffusion
from cxr_core.models.pixels import to_pixels
from cxr_core.seeds import derive_seed
from cxr_core.training.data_order import DataOrder, some, stream
from cxr_core.training.encode import encode_moments
from cxr_core.training.objective import divergence, edge_error
from cxr_core.training.preview import PreviewImages
from cxr_core.training.settings import VaeTrain

_NUM_PREVIEWS = 8
_NUM_MEASURED = 256
"""Training images on which the spread of the latents is measured."""


class Autoencoder(torch.nn.Module):
    """A diffusers AutoencoderKL from pixels to pixels."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction, mean and log variance, for pixels (n, 3, height, width) and noise of the latents' shape."""
        latents = self.vae.encode(pixels).latent_dist
        return self.vae.decode(latents.mean + latents.std * noise).sample, latents.mean, latents.logvar


class VaeTask:
    """See `engine.Task`. Trains `pipeline.vae` on the training images of a Dataset."""

    training_mode = False
    num_parts = 1

    def __init__(self, pipeline: Any, dataset: Dataset, settings: VaeTrain, seed: int) -> None:
        self.pipeline, self.dataset, self.settings, self.seed = pipeline, dataset, settings, seed
        self.module = Autoencoder(pipeline.vae.requires_grad_(True))
        self.train_rows, held_out = (dataset.of_split(split) for split in ("train", "val"))
        self.order = DataOrder(len(self.train_rows), settings.batch_size, derive_seed(seed, "order"))
        validated = some(len(held_out), settings.validation_images, derive_seed(seed, "validation"))
        self.held_out = held_out.iloc[validated]
        shown = held_out if len(held_out) else self.train_rows
        self.shown = shown.iloc[some(len(shown), _NUM_PREVIEWS, derive_seed(seed, "preview"))]

    def loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """L1 of pixels + `edge_weight` * L1 of edges + `kl_weight` * divergence, on the batch at `step`."""
        pixels = self._pixels(self.train_rows.iloc[self.order.batch(step)])
        made, mean, log_variance = module(pixels, self._noise(step).to(pixels.device))
        return self._error(made, pixels) + self.settings.kl_weight * divergence(mean, log_variance)

    def examples(self, step: int) -> Sequence[str]:
        return self.train_rows["image_id"].iloc[self.order.batch(step)].tolist()

    @torch.no_grad()
    def validation(self) -> dict[str, Any]:
        """Error of reconstruction of held-out patients' images, from the latents' means; None without any."""
        if self.held_out.empty:
            return {"validation_loss": None}
        errors = []
        for start in range(0, len(self.held_out), self.settings.batch_size):
            pixels = self._pixels(self.held_out.iloc[start : start + self.settings.batch_size])
            errors.append(float(self._error(self._reconstruct(pixels), pixels)) * len(pixels))
        return {"validation_loss": sum(errors) / len(self.held_out)}

    @torch.no_grad()
    def preview(self, step: int) -> PreviewImages:
        """Each of a few images above its reconstruction."""
        pixels = self._pixels(self.shown)
        both = torch.stack([pixels, self._reconstruct(pixels).clamp(-1, 1)])
        grey = both.mean(2).add(1).mul(127.5).round().byte().cpu().numpy()
        return PreviewImages(self.shown["image_id"].tolist(), grey)

    def before_export(self) -> None:
        """Set the scaling factor, with which latents have unit variance, where the VAE started from nothing.

        Rombach et al. 2022, arXiv 2112.10752, appendix G. A pretrained VAE keeps the factor its UNet was trained with.
        """
        if self.settings.preset is None:
            return
        rows = self.train_rows.iloc[some(len(self.train_rows), _NUM_MEASURED, derive_seed(self.seed, "scaling"))]
        parts = [rows.iloc[start : start + 32] for start in range(0, len(rows), 32)]
        moments = torch.cat([encode_moments(self.pipeline.vae, self.dataset.images(part)) for part in parts])
        mean, log_variance = moments.double().chunk(2, dim=1)
        variance = mean.var() + log_variance.exp().mean()
        self.pipeline.vae.register_to_config(scaling_factor=float(variance.rsqrt()))

    def export(self, folder: Path, step: int) -> None:
        """Write the whole pipeline as a diffusers folder."""
        stable_diffusion.save(self.pipeline, folder)

    def _error(self, made: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return (made - pixels).abs().mean() + self.settings.edge_weight * edge_error(made, pixels)

    def _reconstruct(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        return vae.decode(vae.encode(pixels).latent_dist.mean).sample

    def _pixels(self, rows: pd.DataFrame) -> torch.Tensor:
        vae = self.pipeline.vae
        return to_pixels(self.dataset.images(rows), vae.config["in_channels"], vae.device)

    def _noise(self, step: int) -> torch.Tensor:
        config, seed = self.pipeline.vae.config, derive_seed(self.seed, "noise")
        side = self.dataset.info.size // 2 ** (len(config["block_out_channels"]) - 1)
        shape = (config["latent_channels"], side, side)
        draws = [
            stream(seed, step, position).standard_normal(shape, np.float32)
            for position in range(self.settings.batch_size)
        ]
        return torch.from_numpy(np.stack(draws))

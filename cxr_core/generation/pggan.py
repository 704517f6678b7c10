"""Images of a PG-GAN: each from latents that its seed gives. It hears no words, so nothing of a prompt is in them."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from cxr_core.generation.noise import generators
from cxr_core.models import pggan
from cxr_core.models.pggan import PgGan


@lru_cache(maxsize=1)
def open_pggan(folder: Path) -> PgGan:
    """The model of a folder. Kept for the next shard."""
    return pggan.load(folder)


def draw_seeds(model: PgGan, seeds: Sequence[int]) -> np.ndarray:
    """Grey images float32 (num_images, side, side), nominally 0..255, not yet rounded; NaN where the model failed."""
    latents = torch.stack([torch.randn(model.info.latent_width, generator=one) for one in generators(seeds)])
    return model.draw(latents).cpu().numpy()

"""Encoding for the latent cache: images to moments by a VAE, prompts to token ids by a tokenizer."""

import copy
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.data.threads import in_order
from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.pixels import to_pixels
from cxr_core.runs.progress import bar


@torch.no_grad()
def encode_moments(vae: Any, images: np.ndarray) -> torch.Tensor:
    """Mean and log variance of the latents of uint8 (n, size, size): float32 (n, 2 * latent channels, h, w)."""
    pixels = to_pixels(images, vae.config["in_channels"], vae.device).to(vae.dtype)
    return vae.encode(pixels).latent_dist.parameters.float().cpu()


def encode_rows(
    folder: Path, dataset: Dataset, rows: pd.DataFrame, batch_size: int, work: Path, *, dtype: str, threads: int
) -> None:
    """Write `moments.npy` and `token_ids.npy` of `rows` into `work`, encoded by the diffusers folder `folder`.

    `threads` threads read the images. For moments of float16 a GPU computes in float16, whose numbers are as fine as
    its TF32, and in float32 those of images that are too much for that. Raises UserError naming images whose moments
    are not finite.
    """
    vae, half, tokenizer = _open(folder)
    images, moments = in_order(dataset.image, rows.itertuples(), threads), []
    with bar("encoding", len(rows)) as progress:
        for start in range(0, len(rows), batch_size):
            batch = rows.iloc[start : start + batch_size]
            pixels = np.stack(list(islice(images, len(batch))))
            found = encode_moments(half if dtype == "float16" else vae, pixels)
            if half is not vae and not found.isfinite().all():
                found = encode_moments(vae, pixels)
            moments.append(found.numpy().astype(dtype))
            _insist_finite(moments[-1], batch["image_id"], folder)
            progress.advance(len(batch))
    np.save(work / "moments.npy", np.concatenate(moments))
    token_ids = stable_diffusion.tokenize(tokenizer, rows["prompt"].tolist())
    np.save(work / "token_ids.npy", token_ids.numpy().astype(np.int32))


def _insist_finite(moments: np.ndarray, image_ids: pd.Series, folder: Path) -> None:
    bad = [name for name, each in zip(image_ids, moments, strict=True) if not np.isfinite(each).all()]
    if bad:
        raise UserError(
            f"the VAE gives {len(bad)} images latents that are not finite as {moments.dtype}: {', '.join(bad[:10])}",
            where=str(folder),
            hint="set the latents stage's dtype: float32, or take another base",
        )


@lru_cache(maxsize=1)
def _open(folder: Path) -> tuple[Any, Any, Any]:
    """VAE, the same in float16 if there is a GPU, and tokenizer.

    The rest of the model is let go: what this process does next may need the room.
    """
    pipeline = stable_diffusion.load(folder)
    vae = half = pipeline.vae.eval().requires_grad_(False)
    if torch.cuda.is_available():
        vae = vae.to("cuda")
        half = copy.deepcopy(vae).half()
    return vae, half, pipeline.tokenizer

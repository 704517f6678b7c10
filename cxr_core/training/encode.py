"""Encoding for the latent cache: images to moments by a VAE, prompts to token ids by a tokenizer."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.models import stable_diffusion
from cxr_core.runs.progress import bar
from cxr_core.training.pixels import to_pixels


@torch.no_grad()
def encode_moments(vae: Any, images: np.ndarray) -> torch.Tensor:
    """Mean and log variance of the latents of uint8 (n, size, size): float32 (n, 2 * latent channels, h, w)."""
    pixels = to_pixels(images, vae.config["in_channels"]).to(vae.device)
    return vae.encode(pixels).latent_dist.parameters.float().cpu()


def encode_rows(folder: Path, dataset: Dataset, rows: pd.DataFrame, batch_size: int, work: Path, dtype: str) -> None:
    """Write `moments.npy` and `token_ids.npy` of `rows` into `work`, encoded by the diffusers folder `folder`."""
    vae, tokenizer = _open(folder)
    moments = []
    with bar("encoding", len(rows)) as progress:
        for start in range(0, len(rows), batch_size):
            batch = rows.iloc[start : start + batch_size]
            moments.append(encode_moments(vae, dataset.images(batch)).numpy().astype(dtype))
            progress.advance(len(batch))
    np.save(work / "moments.npy", np.concatenate(moments))
    token_ids = stable_diffusion.tokenize(tokenizer, rows["prompt"].tolist())
    np.save(work / "token_ids.npy", token_ids.numpy().astype(np.int32))


@lru_cache(maxsize=1)
def _open(folder: Path) -> tuple[Any, Any]:
    """VAE and tokenizer. The rest of the model is let go: what this process does next may need the room."""
    pipeline = stable_diffusion.load(folder)
    vae = pipeline.vae.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return vae, pipeline.tokenizer

"""Inception as papers compute FID: the TorchScript file that NVIDIA publishes of it, `inception-2015-12-05.pt`."""

import hashlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import Extractor
from cxr_core.runs.door import MIB, read_bytes

PUBLISHED = frozenset({"f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"})
"""sha256 of the file as NVIDIA publishes it, of 95,607,719 bytes. TorchScript is a program, which could write to any
file as soon as it is opened: no other one is."""

_SIDE = 299
"""Pixels a side to which the file's own code brings every image."""
_LARGEST = 256 * MIB
_PROBE = np.arange(2 * 64 * 64, dtype=np.uint32).astype(np.uint8).reshape(2, 64, 64)


class InceptionFeatures:
    """Grey images are given as three equal channels of uint8, which the file's own code resizes to 299 px.

    Features are those before the last layer (Heusel et al. 2017, arXiv 1706.08500).
    """

    def __init__(self, path: Path, published: Collection[str] = PUBLISHED) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network, digest = _open(path, self.device, published)
        try:
            features, _ = self.encode(_PROBE)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise _no_inception(path, error) from error
        if features.shape[:-1] != (len(_PROBE),):
            raise _no_inception(path, ValueError(f"features of shape {features.shape} for 2 images"))
        self.about = Extractor(
            kind="model",
            name=f"Inception ({path.name})",
            digest=digest,
            width=features.shape[1],
            size=_SIDE,
            method="bilinear, as TensorFlow",
            output="pooled features",
        )

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        return image

    @torch.inference_mode()
    def encode(self, ready: np.ndarray) -> tuple[np.ndarray, None]:
        pixels = torch.from_numpy(ready).unsqueeze(1).expand(-1, 3, -1, -1)
        return self._network(pixels.to(self.device), return_features=True).float().cpu().numpy(), None


def _open(path: Path, device: str, published: Collection[str]) -> tuple[Any, str]:
    """The network and its file's sha256: what is opened are the bytes that were compared."""
    data = read_bytes(path, limit=_LARGEST)
    digest = hashlib.sha256(data).hexdigest()
    if digest not in published:
        raise UserError(
            f"a file that could run code when it is opened; its sha256 {digest} is not that of a published one",
            where=str(path),
            hint="give inception-2015-12-05.pt as NVIDIA publishes it with StyleGAN, or the folder of an AutoModel "
            "whose weights are safetensors",
        )
    try:
        return torch.jit.load(io.BytesIO(data), map_location=device).eval(), digest
    except (RuntimeError, ValueError, OSError) as error:
        raise _no_inception(path, error) from error


def _no_inception(path: Path, error: Exception) -> UserError:
    return UserError(
        f"not Inception as a TorchScript file ({str(error).splitlines()[0]})",
        where=str(path),
        hint="give inception-2015-12-05.pt as NVIDIA publishes it with StyleGAN, or the folder of an AutoModel",
    )

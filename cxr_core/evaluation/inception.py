"""Inception as papers compute FID: the TorchScript file that NVIDIA publishes of it, `inception-2015-12-05.pt`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import Extractor
from cxr_core.runs.files import sha256_file

_SIDE = 299
"""Pixels a side to which the file's own code brings every image."""
_PROBE = np.arange(2 * 64 * 64, dtype=np.uint32).astype(np.uint8).reshape(2, 64, 64)


class InceptionEye:
    """Grey images are given as three equal channels of uint8, which the file's own code resizes to 299 px.

    Features are those before the last layer (Heusel et al. 2017, arXiv 1706.08500).
    """

    def __init__(self, path: Path) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = _open(path, self.device)
        try:
            features, _ = self.see(_PROBE)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise _no_inception(path, error) from error
        if features.shape[:-1] != (len(_PROBE),):
            raise _no_inception(path, ValueError(f"features of shape {features.shape} for 2 images"))
        self.about = Extractor(
            kind="model",
            name=f"Inception ({path.name})",
            digest=sha256_file(path),
            width=features.shape[1],
            size=_SIDE,
            method="bilinear, as TensorFlow",
            output="pooled features",
        )

    def ready(self, image: np.ndarray) -> np.ndarray:
        return image

    @torch.inference_mode()
    def see(self, ready: np.ndarray) -> tuple[np.ndarray, None]:
        pixels = torch.from_numpy(ready).unsqueeze(1).expand(-1, 3, -1, -1)
        return self._network(pixels.to(self.device), return_features=True).float().cpu().numpy(), None


def _open(path: Path, device: str) -> Any:
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise _no_inception(path, error) from error


def _no_inception(path: Path, error: Exception) -> UserError:
    return UserError(
        f"not Inception as a TorchScript file ({str(error).splitlines()[0]})",
        where=str(path),
        mend="give inception-2015-12-05.pt as NVIDIA publishes it with StyleGAN, or the folder of an AutoModel",
    )

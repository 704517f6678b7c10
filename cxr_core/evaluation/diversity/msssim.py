"""MS-SSIM: how alike two images are, at several scales.

Tests compare it with torchmetrics, whose import alone takes 4 s of CPU time in every process, and whose numbers are
others in the fifth digit (2e-5): results of runs would change.
"""

import numpy as np
import torch
from torch.nn import functional as F

_WINDOW, _SIGMA = 11, 1.5
_SHARES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, finest first (Wang et al. 2003)."""


def scales_of(size: int) -> int:
    """Scales that images of `size` pixels a side have room for: 5 from 176 px, 4 from 99, 3 from 44, 2 from 11."""
    return max((n for n in range(2, 6) if size // (n - 1) ** 2 >= _WINDOW), default=0)


def ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """MS-SSIM of pairs of grey images uint8 (n, size, size): (n,), 1 for equal ones.

    Wang, Simoncelli and Bovik 2003, window of 11 with sigma 1.5, constants 0.01 and 0.03. As torchmetrics has it, the
    last scale counts the mirrored border too, the others do not. Small images have fewer scales (`scales_of`), whose
    shares are scaled to the sum 1; raises AssertionError below 11 px.
    """
    num_scales = scales_of(a.shape[-1])
    assert num_scales, "images of less than 11 px"
    shares = np.array(_SHARES[:num_scales]) / sum(_SHARES[:num_scales])
    x, y = (torch.from_numpy(images)[:, None].float() / 255 for images in (a, b))
    found = torch.ones(len(a))
    for scale, share in enumerate(shares):
        if scale:
            x, y = (F.avg_pool2d(images, 2) for images in (x, y))
        whole, contrast = _ssim(x, y)
        found *= (whole if scale == num_scales - 1 else contrast).clamp(min=0) ** share
    return found.numpy()


def _ssim(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean SSIM over the whole image, and mean contrast and structure inside its border: (n,) each."""
    border = _WINDOW // 2
    x, y = (F.pad(images, (border,) * 4, mode="reflect") for images in (x, y))
    mean_x, mean_y, square_x, square_y, product = F.conv2d(torch.cat([x, y, x * x, y * y, x * y]), _gaussian()).chunk(5)
    spread = (square_x - mean_x**2).clamp(min=0) + (square_y - mean_y**2).clamp(min=0)
    contrast = (2 * (product - mean_x * mean_y) + 0.03**2) / (spread + 0.03**2)
    whole = contrast * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    inside = contrast[..., border:-border, border:-border]
    return whole.mean(dim=(1, 2, 3)), inside.mean(dim=(1, 2, 3))


def _gaussian() -> torch.Tensor:
    places = torch.arange(_WINDOW) - _WINDOW // 2
    line = torch.exp(-((places / _SIGMA) ** 2) / 2)
    window = torch.outer(line, line)
    return (window / window.sum())[None, None]

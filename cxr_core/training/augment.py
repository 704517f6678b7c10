"""Small changes of training images under which their findings stay what they are."""

import numpy as np
import torch
from torch.nn import functional as F

NUM_DRAWS = 6

_SHIFT = 0.05
"""Of the image's side, along each axis."""
_TURN = np.deg2rad(7.0)
_ZOOM = 0.1
_BRIGHTNESS = 0.1
"""Of half the range of values."""
_CONTRAST = 0.15


def mild(pixels: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Shift, turn, zoom, then change contrast and brightness. Never a flip: the heart has a side.

    `pixels` float32 (n, 1, size, size) in -1..1; `draws` (n, NUM_DRAWS) in -1..1, all zero for no change. Values stay
    in -1..1.
    """
    contrast, brightness = torch.from_numpy(draws).to(pixels)[:, [5, 4], None, None, None].unbind(dim=1)
    return (moved(pixels, draws) * (1 + _CONTRAST * contrast) + _BRIGHTNESS * brightness).clamp(-1, 1)


def moved(maps: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Only shift, turn and zoom: maps float32 (n, channels, size, size) of any size and values.

    What comes in at the border is the border's value.
    """
    shift_x, shift_y, turn, zoom, *_ = torch.from_numpy(draws).to(maps).unbind(dim=1)
    angle, scale = _TURN * turn, 1 / (1 + _ZOOM * zoom)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # affine_grid's range of -1..1 is the whole side, so a share of the side is twice as much there.
    rows = [torch.stack([cos, -sin, 2 * _SHIFT * shift_x], 1), torch.stack([sin, cos, 2 * _SHIFT * shift_y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)

"""Grey images as networks take them."""

import numpy as np
import torch


def to_pixels(images: np.ndarray, channels: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (n, height, width) to float32 (n, channels, height, width) in [-1, 1], the grey value in every channel."""
    pixels = torch.from_numpy(images).to(device).float().div(127.5).sub(1)
    return pixels[:, None].expand(-1, channels, -1, -1).contiguous()

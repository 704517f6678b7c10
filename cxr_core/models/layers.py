"""Layers that the small nets share."""

import torch
from torch import nn

GROUPS = 8
"""Of GroupNorm (Wu and He 2018, arXiv 1803.08494), which unlike BatchNorm takes nothing from the other images."""


def convolution(before: int, after: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    """Norm, ReLU and a convolution of 3 x 3."""
    layer = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.GroupNorm(GROUPS, before), nn.ReLU(), layer


class Residual(nn.Module):
    """Two convolutions whose result is added (He et al. 2016, arXiv 1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*convolution(channels, channels), *convolution(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)

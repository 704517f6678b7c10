"""PG-GAN: a generator and a discriminator that grow from 4 pixels (Karras et al. 2018, arXiv 1710.10196).

The layers are those of Segal et al. 2021, arXiv 2010.03975, whose system the study compares with: pixel norm of the
latent and after each convolution of the generator, no activation on the way from and to images. All scales exist from
the start, and which of them compute is told at each call; so growing changes no state and resumes anywhere.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cxr_core.models.initial import seeded
from cxr_core.models.pggan_folder import FOLDER, GROUP, PgganInfo, read_info
from cxr_core.models.strict import load_weights, save_weights

_SLOPE = 0.2
_LITTLE = 1e-8


class EqualisedLinear(nn.Linear):
    """gain * W x + b, with W from N(0, 1), b = 0 and gain = sqrt(2 / fan-in) applied at each call (Karras, 4.1).

    Adam's steps then are as large, relative to the weights' effect, in every layer.
    """

    def reset_parameters(self) -> None:
        _from_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * gain(self.weight), self.bias)


class EqualisedConv(nn.Conv2d):
    """As `EqualisedLinear`, of a convolution."""

    def reset_parameters(self) -> None:
        _from_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * gain(self.weight), self.bias, padding=self.padding)


def gain(weight: torch.Tensor) -> float:
    """sqrt(2 / fan-in) of a weight (outputs, inputs, ...)."""
    return math.sqrt(2 / weight[0].numel())


def _from_normal(layer: Any) -> None:
    nn.init.normal_(layer.weight)
    nn.init.zeros_(layer.bias)


def pixel_norm(x: torch.Tensor) -> torch.Tensor:
    """Each place's channels (dimension 1) divided by the root of their mean square, which is computed in fp32."""
    return x * (x.float().square().mean(dim=1, keepdim=True) + _LITTLE).rsqrt().to(x.dtype)


def spread_of_groups(features: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n, 1, h, w): the standard deviation over `GROUP` consecutive items, averaged over c, h and w.

    n is a multiple of `GROUP`. An item's value hangs on its group alone, so a batch may be cut between groups. In fp32:
    in fp16 what is added would vanish, and with it the gradient where the items are alike.
    """
    num, _, height, width = features.shape
    assert num % GROUP == 0, f"{num} items are no whole groups of {GROUP}"
    groups = features.float().unflatten(0, (-1, GROUP))
    spread = groups.var(dim=1, unbiased=False).add(_LITTLE).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat_interleave(GROUP)[:, None, None, None].expand(num, 1, height, width)


def spread_of_channels(features: torch.Tensor) -> torch.Tensor:
    """As `spread_of_groups`, but over the channels of each item by itself: so the study takes features of one image."""
    spread = features.var(dim=1, unbiased=False).add(_LITTLE).sqrt().mean(dim=(1, 2))
    return spread[:, None, None, None].expand(-1, 1, *features.shape[2:])


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour enlargement to twice the side."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def faded(new: torch.Tensor, old: torch.Tensor, fade: float | torch.Tensor) -> torch.Tensor:
    """`fade` (0..1, one or one an item) of `new` and the rest of `old`."""
    return old + fade * (new - old)


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, _SLOPE)


def _normed(x: torch.Tensor) -> torch.Tensor:
    return pixel_norm(_leaky(x))


class Block(nn.Module):
    """The two convolutions of a scale."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.one = EqualisedConv(before, after, 3, padding=1)
        self.two = EqualisedConv(after, after, 3, padding=1)

    def forward(self, x: torch.Tensor, activate: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return activate(self.two(activate(self.one(x))))


class Generator(nn.Module):
    """Latents (n, latent_width) to images (n, channels, side, side)."""

    def __init__(self, info: PgganInfo) -> None:
        super().__init__()
        first = info.widths[0]
        self.dense = EqualisedLinear(info.latent_width, 16 * first)
        self.first = EqualisedConv(first, first, 3, padding=1)
        self.blocks = nn.ModuleList(Block(before, after) for before, after in pairwise(info.widths))
        self.to_image = nn.ModuleList(EqualisedConv(width, info.channels, 1) for width in info.widths)

    def forward(self, latents: torch.Tensor, scale: int, fade: float = 1.0) -> torch.Tensor:
        """Images at `scale`, with a share of `fade` from its own layers and the rest from the scale before."""
        x = _leaky(self.dense(pixel_norm(latents))).unflatten(1, (-1, 4, 4))
        x = before = _normed(self.first(x))
        for block in list(self.blocks)[:scale]:
            before = x
            x = block(doubled(x), _normed)
        image = self.to_image[scale](x)
        if scale == 0 or fade >= 1:
            return image
        return faded(image, doubled(self.to_image[scale - 1](before)), fade)


class Discriminator(nn.Module):
    """Images (n, channels, side, side) to scores (n,): the higher, the likelier a real one."""

    def __init__(self, info: PgganInfo) -> None:
        super().__init__()
        first = info.widths[0]
        self.from_image = nn.ModuleList(EqualisedConv(info.channels, width, 1) for width in info.widths)
        self.blocks = nn.ModuleList(Block(own, below) for below, own in pairwise(info.widths))
        self.last = EqualisedConv(first + 1, first, 3, padding=1)
        self.whole = EqualisedConv(first, first, 4)
        self.score = EqualisedLinear(first, 1)

    def forward(self, images: torch.Tensor, scale: int, fade: float = 1.0) -> torch.Tensor:
        """Scores of images at `scale`; their number is a multiple of `GROUP`."""
        x = self._shrunk(images, scale, fade)
        vector = self._vector(x, spread_of_groups(x))
        with torch.autocast(vector.device.type, enabled=False):  # small differences of large scores count
            return self.score(vector.float())[:, 0]

    def features(self, images: torch.Tensor, scale: int) -> torch.Tensor:
        """What is before the score: (n, widths[0]), of each image by itself."""
        x = self._shrunk(images, scale, 1.0)
        return self._vector(x, spread_of_channels(x))

    def _shrunk(self, images: torch.Tensor, scale: int, fade: float) -> torch.Tensor:
        x = self.from_image[scale](images)
        for place in reversed(range(scale)):
            x = F.avg_pool2d(self.blocks[place](x, _leaky), 2)
            if place == scale - 1 and fade < 1:
                x = faded(x, self.from_image[scale - 1](F.avg_pool2d(images, 2)), fade)
        return x

    def _vector(self, x: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        return _leaky(self.whole(_leaky(self.last(torch.cat([x, spread], dim=1))))).flatten(1)


class PgGan(nn.Module):
    """Both networks."""

    def __init__(self, info: PgganInfo) -> None:
        super().__init__()
        self.info = info
        self.generator = Generator(info)
        self.discriminator = Discriminator(info)

    @property
    def device(self) -> torch.device:
        return self.generator.dense.weight.device

    @torch.no_grad()
    def draw(self, latents: torch.Tensor) -> torch.Tensor:
        """`as_grey` of what latents (n, latent_width) give, as far as the model has grown."""
        return self.as_grey(self.generator(latents.to(self.device), self.info.scale, self.info.fade))

    def as_grey(self, images: torch.Tensor) -> torch.Tensor:
        """Grey values float32 (n, side, side), nominally 0..255: the mean of channels, each clamped to its range."""
        lowest = self.info.lowest
        return images.float().sub(lowest).div(1 - lowest).clamp(0, 1).mul(255).mean(dim=1)


def build(info: PgganInfo, seed: int) -> PgGan:
    """A PG-GAN with random weights that are a function of both arguments, on the CPU."""
    with seeded(seed):
        return PgGan(info)


def save(model: PgGan, folder: Path, about: Mapping[str, Any], *, scale: int, fade: float) -> None:
    """Write a folder with `pggan.json` and `pggan.safetensors`. Equal weights give equal bytes."""
    folder.mkdir()
    save_weights(model, folder / FOLDER.weights)
    FOLDER.write_info(folder, replace(model.info, scale=scale, fade=fade), about)


def load(folder: Path) -> PgGan:
    """Open a PG-GAN's folder in evaluation mode, on the GPU where there is one.

    Raises UserError if a file is missing or damaged, or if the weights are of another model than described.
    """
    with torch.device("meta"):
        model = PgGan(read_info(folder))
    load_weights(model, folder / FOLDER.weights, assign=True)
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")

"""The sizes of a PG-GAN and its folder, as far as they can be told without torch."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cxr_core.models.folder import ModelFolder, damaged

GROUP = 4
"""Consecutive images over which the discriminator compares (minibatch-std): a batch holds whole groups."""
SMALLEST = 4
"""Pixels a side of scale 0; every further scale has twice as many."""


@dataclass(frozen=True)
class PgganPreset:
    """One size of both networks: `widths` are channels at scale 0, 1 ... of which the last makes whole images."""

    name: str
    latent_width: int
    widths: tuple[int, ...]

    @property
    def image_size(self) -> int:
        """Pixels a side at the last scale."""
        return size_at(len(self.widths) - 1)

    def num_parameters(self, channels: int) -> int:
        """Weights and biases of both networks, for images of 1 or 3 channels."""
        first, pairs = self.widths[0], list(pairwise(self.widths))
        generator = 16 * first * (self.latent_width + 1) + _convolution(first, first)
        generator += sum(_convolution(a, b) + _convolution(b, b) + b * channels + channels for a, b in pairs)
        generator += first * channels + channels
        discriminator = sum(_convolution(b, a) + _convolution(a, a) for a, b in pairs)
        discriminator += sum(width * (channels + 1) for width in self.widths)
        discriminator += _convolution(first + 1, first) + _convolution(first, first, kernel=4) + first + 1
        return generator + discriminator

    def num_bytes(self, channels: int) -> int:
        """Bytes of a checkpoint in float32, without its small file."""
        return 4 * self.num_parameters(channels)


def _convolution(before: int, after: int, *, kernel: int = 3) -> int:
    return kernel * kernel * before * after + after


NANO = PgganPreset("nano", latent_width=32, widths=(32, 32, 16))
"""16 px, for tests."""

SMALL = PgganPreset("small", latent_width=64, widths=(64, 64, 48, 24, 12))
"""64 px, for a CPU."""

SEGAL256 = PgganPreset("segal256", latent_width=512, widths=(512, 512, 512, 512, 256, 128, 64))
"""The study's PG-GAN up to 256 px."""

SEGAL1024 = PgganPreset("segal1024", latent_width=512, widths=(*SEGAL256.widths, 32, 16))
"""The study's PG-GAN in full: the widths of Segal et al. 2021, arXiv 2010.03975, of 4 to 1024 px."""

PGGANS = {preset.name: preset for preset in (NANO, SMALL, SEGAL256, SEGAL1024)}


def size_at(scale: int) -> int:
    """Pixels a side at a scale."""
    return SMALLEST * 2**scale


@dataclass(frozen=True)
class PgganInfo:
    """A PG-GAN: its sizes, how far it has grown, and the range of its pixels.

    It draws at `scale` (from 0), whose layers count with a share of `fade` (0..1) beside those of the scale before.
    `lowest` is the value of black, -1 or 0; white is 1.
    """

    latent_width: int
    widths: tuple[int, ...]
    channels: int
    scale: int
    fade: float = 1.0
    lowest: float = -1.0

    @property
    def size(self) -> int:
        """Pixels a side of what it draws now."""
        return size_at(self.scale)

    @property
    def image_size(self) -> int:
        """Pixels a side of what it draws once it has grown up."""
        return size_at(len(self.widths) - 1)


FOLDER = ModelFolder("pggan", PgganInfo)
"""`about` says how it was trained."""

pggan_sha256 = FOLDER.sha256


def read_info(folder: Path) -> PgganInfo:
    """What the PG-GAN in `folder` is. Raises UserError if its pggan.json is missing, damaged or newer."""
    info = FOLDER.read_info(folder)
    if not 0 <= info.scale < len(info.widths):
        raise damaged(folder / FOLDER.about, f"scale {info.scale} of {len(info.widths)}")
    return info

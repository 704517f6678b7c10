"""A net that tells where findings are: a map of probabilities for each, a quarter as wide as the image."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from cxr_core.models.initial import seeded
from cxr_core.models.layers import GROUPS, Residual, convolution
from cxr_core.models.localiser_folder import WEIGHTS, LocaliserInfo, read_info, write_info
from cxr_core.models.strict import load_weights, save_weights

_CHANNELS = (16, 32, 64, 64)
_WIDTH = 64


class Localiser(nn.Module):
    """Convolutions down to a sixteenth of the image and up again to a quarter (Lin et al. 2017, arXiv 1612.03144)."""

    def __init__(self, num_findings: int) -> None:
        super().__init__()
        first, *widths = _CHANNELS
        self.stem = nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False)
        before = (first, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(a, b, stride=2), Residual(b)) for a, b in zip(before, widths, strict=True)
        )
        self.across = nn.ModuleList(nn.Conv2d(width, _WIDTH, 1) for width in widths)
        self.up = nn.ModuleList(nn.Sequential(*convolution(_WIDTH, _WIDTH), Residual(_WIDTH)) for _ in widths[:-1])
        self.head = nn.Sequential(nn.GroupNorm(GROUPS, _WIDTH), nn.ReLU(), nn.Conv2d(_WIDTH, num_findings, 1))

    @property
    def device(self) -> torch.device:
        return self.stem.weight.device

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits float32 (n, num_findings, size / 4, size / 4), for pixels (n, 1, size, size) in -1..1."""
        levels, x = [], self.stem(pixels)
        for step, across in zip(self.down, self.across, strict=True):
            x = step(x)
            levels.append(across(x))
        merged = levels.pop()
        for step in self.up:
            merged = step(levels.pop() + F.interpolate(merged, scale_factor=2.0, mode="nearest"))
        return self.head(merged).float()


def build(findings: tuple[str, ...], seed: int) -> Localiser:
    """A localiser with random weights that are a function of both arguments, on the CPU."""
    with seeded(seed):
        return Localiser(len(findings))


def save(model: Localiser, folder: Path, info: LocaliserInfo) -> None:
    """Write `localiser.json` and `localiser.safetensors` into a new folder. Equal weights give equal bytes."""
    folder.mkdir()
    save_weights(model, folder / WEIGHTS)
    write_info(folder, info)


def load(folder: Path) -> tuple[Localiser, LocaliserInfo]:
    """Open a localiser's folder in evaluation mode, on the GPU where there is one.

    Raises UserError if a file is missing or damaged, or if the weights are of another localiser than described.
    """
    info = read_info(folder)
    model = build(info.findings, seed=0)
    load_weights(model, folder / WEIGHTS)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), info

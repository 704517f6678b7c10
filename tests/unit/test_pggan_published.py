"""A checkpoint of the published PG-GAN layout, made here, becomes a model of ours, or is refused with its tensors."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cxr_core.errors import UserError
from cxr_core.models import pggan, pggan_published
from cxr_core.models.pggan_folder import read_info

WIDTHS, LATENT = (16, 8, 4), 6


class Equalised(nn.Module):
    """A layer as the published code has it: the gain is applied to weights and bias together."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) * (2 / self.module.weight[0].numel()) ** 0.5


class Normal(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def conv(before: int, after: int, kernel: int = 3, padding: int = 1, *, normal: bool) -> list[nn.Module]:
    layers = [Equalised(nn.Conv2d(before, after, kernel, padding=padding)), nn.LeakyReLU(0.2)]
    return [*layers, Normal()] if normal else layers


class Block(nn.Module):
    def __init__(self, before: int, after: int, *, normal: bool) -> None:
        super().__init__()
        self.convolv = nn.Sequential(*conv(before, after, normal=normal), *conv(after, after, normal=normal))


class PublishedGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("current_size", torch.tensor(16))
        self.register_buffer("current_depth", torch.tensor(2))
        self.register_buffer("alpha", torch.tensor(0.25))
        self.latent_linear = nn.Sequential(Equalised(nn.Linear(LATENT, 16 * WIDTHS[0])), nn.LeakyReLU(0.2))
        self.init_conv = nn.Sequential(*conv(WIDTHS[0], WIDTHS[0], normal=True))
        pairs = list(pairwise(WIDTHS))
        self.ScaleBlocks = nn.ModuleList(Block(a, b, normal=True) for a, b in pairs)
        self.toRGB = nn.ModuleList(Equalised(nn.Conv2d(width, 3, 1)) for width in WIDTHS)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.init_conv(self.latent_linear(Normal()(z)).view(len(z), -1, 4, 4))
        for i, block in enumerate(self.ScaleBlocks):
            if i == 1:
                old = F.interpolate(self.toRGB[1](x), scale_factor=2)
            x = block.convolv(F.interpolate(x, scale_factor=2))
        return self.alpha * old + (1 - self.alpha) * self.toRGB[2](x)


class PublishedDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(0.25))
        self.fromRGB = nn.ModuleList(Equalised(nn.Conv2d(3, width, 1)) for width in WIDTHS)
        # Grown at its front: the newest block is the first.
        pairs = reversed(list(pairwise(WIDTHS)))
        self.ScaleBlocks = nn.ModuleList(Block(b, a, normal=False) for a, b in pairs)
        first = WIDTHS[0]
        self.DecisionBlock = nn.Sequential(
            *conv(first + 1, first, normal=False), *conv(first, first, 4, 0, normal=False)
        )
        self.DecisionLinear = Equalised(nn.Linear(first, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.fromRGB[2](images)
        for i, block in enumerate(self.ScaleBlocks):
            x = F.avg_pool2d(block.convolv(x), 2)
            if i == 0:
                x = self.alpha * self.fromRGB[1](F.avg_pool2d(images, 2)) + (1 - self.alpha) * x
        spread = (x - x.mean(0, keepdim=True)).pow(2).mean(0).add(1e-8).sqrt().mean().expand(len(x), 1, 4, 4)
        return self.DecisionLinear(self.DecisionBlock(torch.cat([x, spread], 1)).flatten(1))[:, 0]


class Published(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.gen_shadow = PublishedGenerator(), PublishedGenerator()
        self.discriminator = PublishedDiscriminator()
        self.register_buffer("img_size", torch.tensor(16))
        self.register_buffer("fixed_z", torch.randn(2, LATENT))
        self.register_buffer("total_iter", torch.tensor(100))


def content(published: Published) -> dict[str, Any]:
    settings = {"g_depth": torch.tensor(2), "g_alpha": torch.tensor(0.25), "fixed_z": published.fixed_z}
    return {"state_dict": published.state_dict(), "settings": settings}


@pytest.fixture(scope="module")
def published() -> Published:
    torch.manual_seed(5)
    return Published()


@pytest.fixture
def file(published: Published, tmp_path: Path) -> Path:
    path = tmp_path / "published.pth"
    torch.save(content(published), path)
    return path


@torch.no_grad()
def test_given_a_published_checkpoint_both_networks_compute_what_the_published_ones_do(
    published: Published, file: Path, tmp_path: Path
) -> None:
    pggan_published.import_checkpoint(file, tmp_path / "model")
    info, model = read_info(tmp_path / "model"), pggan.load(tmp_path / "model")
    assert (info.widths, info.channels, info.size, info.fade, info.lowest) == (WIDTHS, 3, 16, 0.75, 0.0)
    z = torch.randn(4, LATENT)
    shadow = published.gen_shadow(z)
    assert torch.allclose(model.generator(z, 2, 0.75), shadow, atol=1e-4)
    assert torch.allclose(model.draw(z), shadow.clamp(0, 1).mul(255).mean(1), atol=0.05)
    images = torch.rand(4, 3, 16, 16)
    assert torch.allclose(model.discriminator(images, 2, 0.75), published.discriminator(images), atol=1e-4)


def test_given_tensors_that_differ_the_error_lists_every_one(published: Published, file: Path) -> None:
    changed = content(published)
    state = dict(changed["state_dict"])
    del state["discriminator.DecisionLinear.module.bias"]
    state["generator.extra.weight"] = torch.zeros(1)
    state["gen_shadow.toRGB.1.module.weight"] = torch.zeros(3, 9, 1, 1)
    torch.save({**changed, "state_dict": state}, file)
    with pytest.raises(UserError) as raised:
        pggan_published.read(file)
    text = str(raised.value)
    assert "1 are missing: discriminator.DecisionLinear.module.bias" in text
    assert "1 are of something else: generator.extra.weight" in text
    assert "gen_shadow.toRGB.1.module.weight is (3, 9, 1, 1), not (3, 8, 1, 1)" in text


def test_given_a_file_that_would_run_code_or_is_of_something_else_it_is_refused(
    published: Published, file: Path
) -> None:
    torch.save(published, file)
    with pytest.raises(UserError, match="torch cannot open it"):
        pggan_published.read(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(UserError, match="it has no state_dict and settings"):
        pggan_published.read(file)
    torch.save({"state_dict": {}, "settings": {"g_depth": torch.tensor(2)}}, file)
    with pytest.raises(UserError, match="its sizes cannot be told: KeyError"):
        pggan_published.read(file)

"""PG-GAN: its layers against closed forms, and its folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxr_core.errors import UserError
from cxr_core.models import pggan
from cxr_core.models.pggan import (
    EqualisedConv,
    EqualisedLinear,
    PgGan,
    doubled,
    gain,
    pixel_norm,
    spread_of_channels,
    spread_of_groups,
)
from cxr_core.models.pggan_folder import NANO, PGGANS, SEGAL1024, PgganInfo, read_info

INFO = PgganInfo(NANO.latent_width, NANO.widths, channels=1, scale=2)


@pytest.fixture(scope="module")
def model() -> PgGan:
    return pggan.build(INFO, seed=3)


def latents(num: int, width: int = NANO.latent_width) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(1))


# Layers


def test_given_an_equalised_layer_it_computes_with_weights_times_the_root_of_two_over_the_fan_in() -> None:
    x, linear = torch.randn(5, 8), EqualisedLinear(8, 3)
    linear.bias.data.fill_(0.5)
    assert torch.allclose(linear(x), x @ linear.weight.T * 0.5 + 0.5, atol=1e-6)
    conv, image = EqualisedConv(2, 3, 3, padding=1), torch.randn(1, 2, 6, 6)
    assert gain(conv.weight) == pytest.approx((2 / 18) ** 0.5)
    assert torch.allclose(conv(image), F.conv2d(image, conv.weight / 3, padding=1), atol=1e-6)


def test_given_wide_inputs_an_equalised_layer_starts_from_unit_weights_and_twice_the_variance() -> None:
    torch.manual_seed(0)
    for width in (64, 1024):
        layer = EqualisedLinear(width, 2000)
        assert layer.weight.std().item() == pytest.approx(1, rel=0.02)
        assert layer(torch.randn(20, width)).var().item() == pytest.approx(2, rel=0.05)


def test_given_pixel_norm_each_place_has_a_mean_square_of_one() -> None:
    x = 7 * torch.randn(2, 16, 3, 3)
    assert torch.allclose(pixel_norm(x).square().mean(dim=1), torch.ones(2, 3, 3), atol=1e-5)


def test_given_groups_of_four_consecutive_items_each_gets_the_standard_deviation_of_its_own_group() -> None:
    same = torch.ones(4, 2, 3, 3)
    apart = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None].expand(4, 2, 3, 3) * 5
    found = spread_of_groups(torch.cat([same, apart]))
    assert found.shape == (8, 1, 3, 3)
    assert torch.allclose(found[:4], torch.zeros(()), atol=1e-3)
    assert torch.allclose(found[4:], torch.tensor(5.0))
    # So ranks that hold whole groups compute what one process does.
    x = torch.randn(12, 3, 4, 4)
    assert torch.equal(spread_of_groups(x), torch.cat([spread_of_groups(x[:4]), spread_of_groups(x[4:])]))


def test_given_one_image_its_features_take_the_spread_over_its_own_channels(model: PgGan) -> None:
    x = torch.randn(3, 5, 4, 4)
    wanted = x.std(dim=1, correction=0).mean(dim=(1, 2))
    assert torch.allclose(spread_of_channels(x)[:, 0, 0, 0], wanted, atol=1e-5)
    images = torch.randn(3, 1, 16, 16)
    features = model.discriminator.features(images, 2)
    assert features.shape == (3, NANO.widths[0])
    assert torch.allclose(features[1:2], model.discriminator.features(images[1:2], 2), atol=1e-5)


# Growing


def test_given_a_fade_of_nothing_generator_and_discriminator_are_those_of_the_scale_before(model: PgGan) -> None:
    z, images = latents(4), torch.randn(4, 1, 16, 16)
    assert torch.allclose(model.generator(z, 2, 0.0), doubled(model.generator(z, 1)))
    assert torch.allclose(
        model.discriminator(images, 2, 0.0), model.discriminator(F.avg_pool2d(images, 2), 1), atol=1e-5
    )


def test_given_a_fade_the_image_is_the_mixture_of_the_old_one_and_the_new(model: PgGan) -> None:
    z = latents(4)
    old, new = doubled(model.generator(z, 1)), model.generator(z, 2)
    assert torch.allclose(model.generator(z, 2, 0.25), 0.75 * old + 0.25 * new, atol=1e-6)
    jump = (model.generator(z, 2, 1e-4) - old).abs().max()
    assert jump < 1e-3 * (new - old).abs().max()


def test_given_a_scale_the_layers_of_later_ones_get_no_gradient(model: PgGan) -> None:
    model.zero_grad()
    model.discriminator(model.generator(latents(4), 1, 0.5), 1, 0.5).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {
        f"{network}.{part}.{kind}"
        for network, parts in {
            "generator": ("blocks.1.one", "blocks.1.two", "to_image.2"),
            "discriminator": ("blocks.1.one", "blocks.1.two", "from_image.2"),
        }.items()
        for part in parts
        for kind in ("weight", "bias")
    }


# Sizes and folders


@pytest.mark.parametrize("name", sorted(PGGANS))
@pytest.mark.parametrize("channels", [1, 3])
def test_given_a_preset_its_parameters_are_as_many_as_stated(name: str, channels: int) -> None:
    preset = PGGANS[name]
    with torch.device("meta"):
        made = PgGan(PgganInfo(preset.latent_width, preset.widths, channels, scale=0))
    assert sum(parameter.numel() for parameter in made.parameters()) == preset.num_parameters(channels)


def test_given_the_study_in_full_size_it_is_saved_opened_and_draws_1024_pixels(tmp_path: Path) -> None:
    # A 64th of the channels, for time: as many scales.
    widths = tuple(max(8, width // 64) for width in SEGAL1024.widths)
    info = PgganInfo(SEGAL1024.latent_width, widths, channels=3, scale=8)
    pggan.save(pggan.build(info, seed=1), tmp_path / "model", {}, scale=8, fade=1.0)
    greys = pggan.load(tmp_path / "model").draw(latents(1, 512))
    assert greys.shape == (1, 1024, 1024)
    assert 0 <= greys.min() < greys.max() <= 255


def test_given_one_seed_a_folder_has_the_same_bytes_and_opens_as_it_was(tmp_path: Path, model: PgGan) -> None:
    for name in ("a", "b"):
        pggan.save(pggan.build(INFO, seed=3), tmp_path / name, {"steps": 7}, scale=1, fade=0.25)
    assert (tmp_path / "a" / "pggan.safetensors").read_bytes() == (tmp_path / "b" / "pggan.safetensors").read_bytes()
    assert read_info(tmp_path / "a") == replace(INFO, scale=1, fade=0.25)
    z = latents(2)
    drawn = pggan.load(tmp_path / "a").draw(z)
    wanted = model.generator(z, 1, 0.25)[:, 0].add(1).mul(127.5).clamp(0, 255)
    assert np.allclose(drawn.numpy(), wanted.detach().numpy(), atol=1e-3)


def test_given_weights_of_another_size_the_error_names_every_tensor(tmp_path: Path) -> None:
    pggan.save(pggan.build(INFO, seed=3), tmp_path / "model", {}, scale=2, fade=1.0)
    about = (tmp_path / "model" / "pggan.json").read_text()
    (tmp_path / "model" / "pggan.json").write_text(about.replace('"channels": 1', '"channels": 3'))
    with pytest.raises(UserError, match=r"from_image\.0\.weight is \(32, 1, 1, 1\), not \(32, 3, 1, 1\)"):
        pggan.load(tmp_path / "model")
    (tmp_path / "model" / "pggan.json").write_text(about.replace('"scale": 2', '"scale": 9'))
    with pytest.raises(UserError, match="scale 9 of 3"):
        pggan.load(tmp_path / "model")

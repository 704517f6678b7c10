"""Methods of fine-tuning: what each changes, and that it does nothing where it is not asked for."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from cxr_core.models.presets import NANO
from cxr_core.training.objective import min_snr_weights
from tests.training import diffusion_task

# Weights by noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_given_min_snr_an_error_in_the_image_weighs_at_most_gamma_whatever_is_predicted(kind: str) -> None:
    scheduler = DDPMScheduler.from_config({**NANO.scheduler, "prediction_type": kind})
    steps = torch.tensor([0, 100, 500, 999])
    kept = scheduler.alphas_cumprod[steps]
    ratio = kept / (1 - kept)
    # How much larger the squared error of the prediction is than that of the image which it stands for.
    factor = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones(4)}[kind]
    assert torch.allclose(min_snr_weights(scheduler, steps, 5.0) * factor, ratio.clamp(max=5.0))
    assert ratio[0] > 5 > ratio[-1]


def test_given_noise_alone_at_the_last_step_min_snr_weights_are_finite() -> None:
    scheduler = DDPMScheduler.from_config({**NANO.scheduler, "prediction_type": "epsilon"}, rescale_betas_zero_snr=True)
    scheduler.alphas_cumprod[-1] = 0.0
    assert min_snr_weights(scheduler, torch.tensor([999]), 5.0).tolist() == [1.0]


def test_given_min_snr_the_loss_is_the_weighed_one_and_the_validation_loss_is_not(
    nano_latents: Path, nano_base: Path
) -> None:
    plain, weighed = (diffusion_task(nano_latents, nano_base, min_snr_gamma=gamma) for gamma in (None, 0.5))
    batch = plain.batch(0, range(4))
    weights = min_snr_weights(plain.scheduler, batch.steps, 0.5)
    errors = plain._errors(plain.module, batch).detach()
    assert plain.loss(plain.module, 0).item() == pytest.approx(float(errors.mean()))
    assert weighed.loss(weighed.module, 0).item() == pytest.approx(float((weights * errors).mean()))
    assert float((weights * errors).mean()) < 0.9 * float(errors.mean())
    assert weighed.validation() == plain.validation()


def test_given_offset_noise_each_channel_is_shifted_as_a_whole_and_all_else_is_drawn_as_before(
    nano_latents: Path, nano_base: Path
) -> None:
    plain, moved = (
        diffusion_task(nano_latents, nano_base, offset_noise=offset, batch_size=40).batch(0, range(40))
        for offset in (0.0, 0.5)
    )
    shift = moved.noise - plain.noise
    assert torch.allclose(shift, shift[..., :1, :1].expand_as(shift), atol=1e-5)
    assert float(shift[..., 0, 0].std()) == pytest.approx(0.5, rel=0.25)
    assert torch.equal(moved.latents, plain.latents)
    assert torch.equal(moved.steps, plain.steps)


def test_given_offset_noise_the_validation_loss_is_the_same(nano_latents: Path, nano_base: Path) -> None:
    plain, moved = (diffusion_task(nano_latents, nano_base, offset_noise=offset) for offset in (0.0, 0.1))
    assert moved.validation() == plain.validation()

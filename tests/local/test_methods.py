"""Methods of fine-tuning: what each changes, and that it does nothing where it is not asked for."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch.autograd.graph import saved_tensors_hooks

from cxr_core.errors import UserError
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.presets import NANO
from cxr_core.models.tensors import content_sha256
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.pack import freeze
from cxr_core.runs.progress import bar
from cxr_core.training.engine import Engine
from cxr_core.training.objective import min_snr_weights
from cxr_core.training.sampling import batches
from tests.planted import planted_rows, write_planted
from tests.training import SIZE, diffusion_stage, diffusion_task, finish, latents_stage, prompted

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


def test_given_prompts_that_say_places_then_some_go_without_and_all_else_is_drawn_as_before(
    nano_base: Path, tmp_path: Path
) -> None:
    rows = prompted(planted_rows(12) + planted_rows(6, split="val"))
    for row in rows:
        if row["labels"]:
            row["prompt"] = "frontal chest x-ray, pleural effusion in the upper left"
    dataset = write_planted(tmp_path / "real", rows, size=SIZE)
    latents = finish(latents_stage(tmp_path / "latents", dataset.folder, nano_base))
    always, never = (
        diffusion_task(latents, nano_base, position_probability=share, batch_size=40, caption_dropout=0.0).batch(
            0, range(40)
        )
        for share in (1.0, 0.0)
    )
    assert torch.equal(always.noise, never.noise)
    assert torch.equal(always.latents, never.latents)
    differ = (always.token_ids != never.token_ids).any(dim=1)
    assert 0 < differ.sum() < 40
    half = diffusion_task(latents, nano_base, position_probability=0.5, batch_size=40, caption_dropout=0.0).batch(
        0, range(40)
    )
    as_told = (half.token_ids == always.token_ids).all(dim=1)
    assert 0 < (as_told & differ).sum() < differ.sum()


def test_given_offset_noise_the_validation_loss_is_the_same(nano_latents: Path, nano_base: Path) -> None:
    plain, moved = (diffusion_task(nano_latents, nano_base, offset_noise=offset) for offset in (0.0, 0.1))
    assert moved.validation() == plain.validation()


# What is shown


def test_given_tempering_what_is_shown_is_counted_before_training_as_it_comes(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    values = {"sampling": {"frequency_exponent": 0.0, "max_repeats": 3}, "steps": 9}
    work = diffusion_stage(tmp_path / "stage", nano_latents, nano_base, **values)
    freeze(work)
    about = read_json(work.folder.path / "plan" / "sampling.json")
    task = diffusion_task(nano_latents, nano_base, **values)
    task.shown = batches(task.cache, None, work.context.settings, work.context.seed)
    came = Counter(name for step in range(9) for name in task.examples(step))
    labels = dict(zip(task.cache.rows["image_id"], task.cache.rows["labels"], strict=True))
    assert (about["images"], about["shown"], about["never_shown"]) == (12, 36, 12 - len(came))
    assert about["combinations"]["Effusion"]["shown"] == sum(num for name, num in came.items() if labels[name])
    assert about["findings"]["No Finding"]["images"] == 6


# Prior preservation


def test_given_a_prior_its_share_of_every_batch_lies_at_the_same_positions(
    nano_latents: Path, nano_base: Path, nano_prior: Path
) -> None:
    task = diffusion_task(nano_latents, nano_base, prior=nano_prior, batch_size=8, prior_share=0.25)
    seen = [[name.split("-")[0] for name in task.examples(step)] for step in range(5)]
    assert seen == [["train", "train", "train", "synthetic"] * 2] * 5
    whole, part = task.batch(3, range(8)), task.batch(3, [3, 4])
    assert torch.equal(whole.latents[3:5], part.latents)


def test_given_a_prior_the_loss_is_the_mean_of_training_images_and_so_many_times_that_of_the_prior(
    nano_latents: Path, nano_base: Path, nano_prior: Path
) -> None:
    task = diffusion_task(nano_latents, nano_base, prior=nano_prior, batch_size=8, prior_share=0.25, prior_weight=3.0)
    errors = task._errors(task.module, task.batch(0, range(8))).detach()
    prior = torch.tensor([False, False, False, True] * 2)
    expected = errors[~prior].mean() + 3 * errors[prior].mean()
    assert task.loss(task.module, 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_given_a_prior_held_out_are_only_real_images(nano_latents: Path, nano_base: Path, nano_prior: Path) -> None:
    without, with_prior = (diffusion_task(nano_latents, nano_base, prior=prior) for prior in (None, nano_prior))
    assert with_prior.validation() == without.validation()


def test_given_a_prior_by_another_vae_nothing_is_frozen(
    tmp_path: Path, nano_latents: Path, nano_base: Path, nano_prior: Path
) -> None:
    other = shutil.copytree(nano_prior, tmp_path / "prior")
    write_json(other / "latents.json", read_json(other / "latents.json") | {"vae": "0" * 64})
    with pytest.raises(UserError, match="another VAE than the base's"):
        freeze(diffusion_stage(tmp_path / "stage", nano_latents, nano_base, prior=other))


def test_given_a_batch_of_one_image_a_prior_has_no_room(nano_latents: Path, nano_base: Path, nano_prior: Path) -> None:
    with pytest.raises(ValidationError, match="leaves no room for training images and for those of inputs"):
        diffusion_task(nano_latents, nano_base, prior=nano_prior, batch_size=1)


# Gradient accumulation


def test_given_micro_batches_the_model_sees_no_more_at_once_and_the_losses_are_those_of_the_whole(
    tmp_path: Path, nano_latents: Path, nano_base: Path, nano_prior: Path
) -> None:
    def run(micro_batch: int | None) -> tuple[list[float], int]:
        values = {"batch_size": 8, "micro_batch": micro_batch, "min_snr_gamma": 5.0}
        task, sizes = diffusion_task(nano_latents, nano_base, prior=nano_prior, **values), []
        task.module.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        with bar("test", 5) as progress:
            rows = Engine(task, task.settings).train(5, progress)
        return [row["loss"] for row in rows] + [row["grad_norm"] for row in rows], max(sizes)

    (whole, at_once), (parts, few) = run(None), run(3)
    assert (at_once, few) == (8, 3)
    assert parts == pytest.approx(whole, rel=1e-5)


# Memory and speed


@pytest.mark.parametrize("train_text_encoder", [True, False])
def test_given_gradient_checkpointing_less_is_kept_for_the_gradient_and_the_losses_are_the_same(
    nano_latents: Path, nano_base: Path, *, train_text_encoder: bool
) -> None:
    def run(*, checkpointing: bool) -> tuple[list[float], int]:
        values = {"gradient_checkpointing": checkpointing, "train_text_encoder": train_text_encoder}
        task, kept = diffusion_task(nano_latents, nano_base, **values), []
        engine = Engine(task, task.settings)
        with saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor):
            task.loss(engine.module, 0)
        with bar("test", 3) as progress:
            return [row["loss"] for row in engine.train(3, progress)], sum(kept)

    (plain, all_kept), (again, few_kept) = run(checkpointing=False), run(checkpointing=True)
    assert again == plain
    assert few_kept < 0.5 * all_kept


def test_given_gradient_checkpointing_the_text_encoder_computes_again_too(nano_latents: Path, nano_base: Path) -> None:
    task, calls = diffusion_task(nano_latents, nano_base, gradient_checkpointing=True), []
    engine = Engine(task, task.settings)
    task.module.text_encoder.encoder.layers[0].layer_norm1.register_forward_pre_hook(lambda *_: calls.append(1))
    task.loss(engine.module, 0).backward()
    assert len(calls) == 2


def test_given_a_base_with_dropout_gradient_checkpointing_is_refused(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    base = shutil.copytree(nano_base, tmp_path / "base")
    config = base / "text_encoder" / "config.json"
    write_json(config, read_json(config) | {"attention_dropout": 0.1})
    with pytest.raises(UserError, match="the base's dropout would make resume inexact"):
        diffusion_task(nano_latents, base, gradient_checkpointing=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where xformers may be asked for")
def test_given_no_gpu_xformers_is_refused_and_the_error_names_the_stage(nano_latents: Path, nano_base: Path) -> None:
    with pytest.raises(UserError, match="attention: xformers needs a GPU, and there is none"):
        diffusion_task(nano_latents, nano_base, attention="xformers")


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++, which torch.compile needs on a CPU")
def test_given_compile_the_unet_is_compiled_for_steps_alone_and_weights_keep_their_names(
    nano_latents: Path, nano_base: Path
) -> None:
    plain, compiled = (diffusion_task(nano_latents, nano_base, compile=yes) for yes in (False, True))
    engine = Engine(compiled, compiled.settings)
    assert compiled.module.unet._compiled_call_impl is not None
    assert engine.parameters.keys() == dict(plain.module.named_parameters()).keys()
    with engine.exported():
        # As fast as without, since nothing is compiled here: make proof TARGET=compile does that.
        assert compiled.validation() == plain.validation()


def test_given_weights_channels_last_a_saved_state_goes_on_bit_for_bit(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    """As they are on a GPU where training is compiled; moments in another layout would be paired wrongly."""

    def engine() -> Engine:
        task = diffusion_task(nano_latents, nano_base)
        task.module.unet.to(memory_format=torch.channels_last)
        return Engine(task, task.settings)

    with bar("test", 6) as progress:
        whole = engine()
        whole.train(3, progress)
        whole.save(tmp_path / "state")
        expected = [row["loss"] for row in whole.train(6, progress)]
        again = engine()
        again.load(tmp_path / "state")
        assert [row["loss"] for row in again.train(6, progress)] == expected


def test_given_no_compiler_compile_is_refused(
    nano_latents: Path, nano_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and there is no no-such-compiler"):
        diffusion_task(nano_latents, nano_base, compile=True)


# The study's recipe


def test_given_a_text_encoder_trained_alone_then_a_unet_alone_on_the_same_latents_each_changes_its_part(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    # As published: the same weights as in a checkpoint of ours, but a file with other bytes.
    base = shutil.copytree(nano_base, tmp_path / "base")
    vae = base / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(vae), vae, metadata={"made": "elsewhere"})
    values = {"steps": 2, "batch_size": 1, "ema_decay": None, "schedule": "linear", "caption_dropout": 0.0}
    words = finish(diffusion_stage(tmp_path / "words", nano_latents, base, train_unet=False, **values))
    images = finish(diffusion_stage(tmp_path / "images", nano_latents, words, train_text_encoder=False, **values))

    def weights(folder: Path, part: str) -> str:
        return content_sha256(next((folder / part).glob("*.safetensors")))

    first, second = final_checkpoint(words), final_checkpoint(images)
    folders = (base, first, second)
    changed = {part: [weights(folder, part) for folder in folders] for part in ("unet", "text_encoder")}
    assert changed["unet"][0] == changed["unet"][1] != changed["unet"][2]
    assert changed["text_encoder"][0] != changed["text_encoder"][1] == changed["text_encoder"][2]


def test_given_nothing_to_train_the_config_is_refused(nano_latents: Path, nano_base: Path) -> None:
    with pytest.raises(ValidationError, match="nothing is trained: set train_unet or train_text_encoder"):
        diffusion_task(nano_latents, nano_base, train_unet=False, train_text_encoder=False)

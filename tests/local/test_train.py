"""Training with real, very small models: what is optimised, and that an interrupted run is the undisturbed one."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.data.latents import LatentCache
from cxr_core.data.splits import choose_patients
from cxr_core.data.words import prompt_words
from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint, read_checkpoints, weights_sha256
from cxr_core.models.pixels import to_pixels
from cxr_core.models.presets import NANO, PRESETS, SD21_BASE
from cxr_core.models.training_data import ImageCounts, TrainingData, images_sha256, read_training_data
from cxr_core.runs.files import read_json, remove, sha256_path
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.training import interval
from cxr_core.training.ema import Ema, decay_at
from cxr_core.training.objective import divergence, edge_error, noisy, squared_error, target
from tests.planted import planted_rows, write_planted
from tests.training import (
    SIZE,
    diffusion_stage,
    diffusion_task,
    finish,
    finish_afresh,
    forget,
    latents_stage,
    losses,
    metrics,
    prompted,
    vae_stage,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = prompted(planted_rows(12) + planted_rows(6, split="val") + planted_rows(2, split="test"))
    return write_planted(tmp_path_factory.mktemp("data") / "real", rows, size=SIZE).folder


@pytest.fixture(scope="module")
def vae(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(vae_stage(tmp_path_factory.mktemp("vae") / "vae", dataset))


@pytest.fixture(scope="module")
def latents(dataset: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(latents_stage(tmp_path_factory.mktemp("latents") / "latents", dataset, vae))


@pytest.fixture(scope="module")
def undisturbed(latents: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(diffusion_stage(tmp_path_factory.mktemp("diffusion") / "diffusion", latents, vae))


# Models


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_given_a_preset_its_parameters_are_as_stated_and_at_most_six_million(name: str) -> None:
    pipeline = stable_diffusion.build(PRESETS[name], seed=0)
    parts = (pipeline.vae, pipeline.unet, pipeline.text_encoder)
    num_parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert num_parameters == PRESETS[name].num_parameters <= 6_000_000


def test_given_sd21_base_its_shapes_are_those_of_the_published_model() -> None:
    with torch.device("meta"):
        parts = (
            UNet2DConditionModel(**SD21_BASE.unet),
            CLIPTextModel(CLIPTextConfig(**SD21_BASE.text_encoder)),
            AutoencoderKL(**SD21_BASE.vae),
        )
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [865_910_724, 340_387_840, 83_653_863]


def test_given_one_seed_a_built_pipeline_has_the_same_bytes_even_after_it_was_loaded(tmp_path: Path) -> None:
    stable_diffusion.save(stable_diffusion.build(NANO, seed=3), tmp_path / "first")
    torch.manual_seed(99)
    stable_diffusion.save(stable_diffusion.build(NANO, seed=3), tmp_path / "second")
    stable_diffusion.save(stable_diffusion.load(tmp_path / "first"), tmp_path / "third")
    assert len({sha256_path(tmp_path / name) for name in ("first", "second", "third")}) == 1


def test_given_a_damaged_folder_the_error_names_it(tmp_path: Path) -> None:
    stable_diffusion.save(stable_diffusion.build(NANO, seed=3), tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors: is no readable safetensors file"):
        stable_diffusion.load(tmp_path / "model")


def test_given_the_words_of_our_prompts_each_is_one_token_and_any_other_text_falls_into_bytes() -> None:
    tokenizer = stable_diffusion.make_tokenizer()
    pieces = {piece for word in prompt_words() for piece in word.lower().replace("_", " ").replace("-", " ").split()}
    assert {piece: len(tokenizer.tokenize(piece)) for piece in pieces} == dict.fromkeys(pieces, 1)
    strange = "sarcoidosis Ünïcode 肺 \u0007"
    ids = tokenizer(strange).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == strange.lower().replace(" ", "")


# Objectives


def test_given_each_prediction_type_the_target_follows_its_formula() -> None:
    latents, noise = torch.full((2, 4, 2, 2), 3.0), torch.full((2, 4, 2, 2), -2.0)
    steps = torch.tensor([10, 900])
    for kind, formula in {
        "epsilon": lambda a: torch.tensor(-2.0),
        "sample": lambda a: torch.tensor(3.0),
        "v_prediction": lambda a: a.sqrt() * -2 - (1 - a).sqrt() * 3,
    }.items():
        scheduler = DDPMScheduler.from_config({**NANO.scheduler, "prediction_type": kind})
        kept = scheduler.alphas_cumprod[steps]
        wanted = target(scheduler, latents, noise, steps)
        assert torch.allclose(wanted, formula(kept).view(-1, 1, 1, 1).expand_as(wanted))
        expected = (kept.sqrt() * 3 + (1 - kept).sqrt() * -2).view(-1, 1, 1, 1).expand_as(latents)
        assert torch.allclose(noisy(scheduler, latents, noise, steps), expected)


def test_given_an_unknown_prediction_type_the_error_lists_the_known_ones() -> None:
    scheduler = DDPMScheduler(prediction_type="epsilon")
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(UserError, match="use epsilon, v_prediction or sample"):
        target(scheduler, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.zeros(1, dtype=torch.int64))


def test_given_constant_differences_the_errors_are_the_closed_forms() -> None:
    zero = torch.zeros(2, 1, 8, 8)
    assert squared_error(torch.full_like(zero, 3.0), zero).tolist() == [9.0, 9.0]
    assert float(edge_error(zero + 5, zero)) == 0.0
    ramp = torch.arange(8.0).expand(2, 1, 8, 8)
    assert float(edge_error(ramp, zero)) == pytest.approx(1 + 2 + 4)
    mean, log_variance = torch.full((1, 1), 2.0), torch.full((1, 1), math.log(3.0))
    assert float(divergence(mean, log_variance)) == pytest.approx(0.5 * (4 + 3 - 1 - math.log(3)))


def test_given_updates_the_average_is_the_closed_form_and_the_weights_come_back() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    ema, expected = Ema({"w": weight}, decay=0.5), 1.0
    for step in range(1, 20):
        weight.data.fill_(float(step))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert decay_at(1, 0.999) == pytest.approx(2 / 11)
    with ema.applied():
        assert weight.item() == pytest.approx(expected, rel=1e-6)
    assert weight.item() == 19.0


# The latent cache


def test_given_a_cache_it_holds_what_the_vae_makes_of_each_training_and_validation_image(
    dataset: Path, vae: Path, latents: Path
) -> None:
    cache, source = LatentCache.open(latents), Dataset.open(dataset)
    rows = source.rows[source.rows["split"] != "test"]
    assert cache.rows["image_id"].tolist() == rows["image_id"].tolist()
    assert len(cache.moments) == len(cache.token_ids) == 18
    pipeline = StableDiffusionPipeline.from_pretrained(str(final_checkpoint(vae)))
    for i, row in enumerate(rows.itertuples()):
        with torch.no_grad():
            direct = pipeline.vae.encode(to_pixels(source.image(row)[None], 3)).latent_dist.parameters[0]
        assert np.allclose(cache.moments[i], direct.numpy(), rtol=2e-3, atol=2e-3)
        tokens = pipeline.tokenizer(row.prompt, padding="max_length").input_ids
        assert cache.token_ids[i].tolist() == tokens


def test_given_a_dataset_of_another_size_the_error_names_both_sizes(tmp_path: Path, vae: Path) -> None:
    small = write_planted(tmp_path / "small", planted_rows(4), size=16).folder
    with pytest.raises(UserError, match=f"16 pixels a side, but the model was made for {SIZE}"):
        freeze(latents_stage(tmp_path / "latents", small, vae))
    with pytest.raises(UserError, match=f"16 pixels a side, but the model was made for {SIZE}"):
        freeze(vae_stage(tmp_path / "vae", small))
    assert not (tmp_path / "vae" / "plan.jsonl").exists()


def test_given_a_prompt_that_the_tokenizer_would_cut_the_cache_is_not_frozen_and_an_image_is_named(
    tmp_path: Path, vae: Path
) -> None:
    rows = planted_rows(4)
    rows[2]["prompt"] = "frontal chest x-ray " * 40
    long = write_planted(tmp_path / "long", rows, size=SIZE).folder
    with pytest.raises(UserError, match=r"image train-00002: a prompt has \d+ tokens, CLIP reads 77"):
        freeze(latents_stage(tmp_path / "latents", long, vae))
    assert not (tmp_path / "latents" / "plan.jsonl").exists()


def test_given_a_preview_prompt_that_the_tokenizer_would_cut_training_is_not_frozen(
    tmp_path: Path, latents: Path, vae: Path
) -> None:
    preview = {"prompts": ["effusion", "effusion " * 76]}
    with pytest.raises(UserError, match=r"stage 'd', preview\.prompts: a prompt has 78 tokens, CLIP reads 77"):
        freeze(diffusion_stage(tmp_path / "stage", latents, vae, preview=preview))


@pytest.mark.parametrize("name", ["latents.json", "rows.parquet", "moments", "token_ids"])
@pytest.mark.parametrize("harm", ["gone", "empty", "cut", "other"])
def test_given_a_damaged_cache_the_error_names_the_file(tmp_path: Path, latents: Path, name: str, harm: str) -> None:
    folder = shutil.copytree(latents, tmp_path / "latents")
    shard = read_json(folder / "latents.json")["shards"][1]
    path = folder / shard.get(name, name)
    damage(path, harm)
    with pytest.raises(UserError) as raised:
        cache = LatentCache.open(folder)
        _ = cache.rows, cache.moments, cache.token_ids
    assert path.name in str(raised.value)


def damage(path: Path, harm: str) -> None:
    """Remove a file, empty it, cut it, or put a valid one with other content in its place."""
    data = path.read_bytes()
    path.unlink()
    if harm == "other" and path.suffix == ".npy":
        np.save(path, np.zeros((3, 2), np.float32))
    elif harm == "other" and path.suffix == ".parquet":
        pd.DataFrame({"image_id": ["a"]}).to_parquet(path)
    elif harm != "gone":
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "other": b'{"format": 1}'}[harm])


# Checkpoints


def test_given_a_finished_stage_diffusers_opens_and_samples_its_checkpoint(undisturbed: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(str(final_checkpoint(undisturbed)))
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("frontal chest x-ray", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, SIZE, SIZE, 3)
    assert np.isfinite(image).all()


def test_given_a_trained_vae_its_scaled_latents_have_unit_variance(vae: Path, latents: Path) -> None:
    factor = read_json(final_checkpoint(vae) / "vae" / "config.json")["scaling_factor"]
    cache = LatentCache.open(latents)
    mean, log_variance = np.split(cache.moments[cache.indices("train")].astype(np.float64), 2, axis=1)
    assert factor**2 * (mean.var() + np.exp(log_variance).mean()) == pytest.approx(1, rel=0.02)


def test_given_a_finished_stage_its_checkpoint_says_what_it_learnt_from_outside_the_digest_of_weights(
    tmp_path: Path, dataset: Path, latents: Path, vae: Path, undisturbed: Path
) -> None:
    checkpoint = final_checkpoint(undisturbed)
    learnt = read_training_data(checkpoint)
    assert learnt is not None
    assert learnt.dataset == Dataset.open(dataset).info.digest
    assert (learnt.images, learnt.patients) == (12, 6)
    assert learnt.findings["Effusion"] == ImageCounts(images=6, patients=6)
    assert learnt.base == read_training_data(final_checkpoint(vae))  # a VAE's own record, of the same images
    assert learnt.base is not None
    assert (learnt.base.images_sha256, learnt.base.base) == (learnt.images_sha256, None)
    alone = shutil.copytree(checkpoint, tmp_path / "alone")
    (alone / "training_data.json").unlink()
    assert weights_sha256(alone) == weights_sha256(checkpoint)
    further = finish(diffusion_stage(tmp_path / "further", latents, undisturbed, steps=2))
    again = read_training_data(final_checkpoint(further))
    assert again == learnt.model_copy(update={"base": learnt})


def test_given_the_keep_rule_old_weights_go_and_previews_and_metrics_stay(undisturbed: Path) -> None:
    checkpoints = read_checkpoints(undisturbed)
    assert [checkpoint.step for checkpoint in checkpoints] == [2, 4, 6]
    assert [checkpoint.path is not None for checkpoint in checkpoints] == [False, False, True]
    assert all((undisturbed / checkpoint.preview / "preview.png").is_file() for checkpoint in checkpoints)
    assert [line["step"] for line in metrics(undisturbed)] == [1, 2, 3, 4, 5, 6]
    kept = {entry.suffix for entry in (undisturbed / "shards").iterdir() if (entry / "state.json").is_file()}
    assert kept == {".state"}


def test_given_each_checkpoint_previews_show_the_same_prompts_and_the_loss_on_held_out_patients(
    undisturbed: Path,
) -> None:
    about = [read_json(undisturbed / c.preview / "preview.json") for c in read_checkpoints(undisturbed)]
    assert {tuple(entry["prompts"]) for entry in about} == {tuple(about[0]["prompts"])}
    assert about[0]["prompts"][0] == "frontal chest x-ray, PA view, effusion"
    assert [entry["step"] for entry in about] == [2, 4, 6]
    assert all(entry["validation_loss"] > 0 for entry in about)


# Exact resume


def run_by_shard(work: Work, *, between: Any) -> Path:
    plan = freeze(work)
    for shard in plan.shards:
        run_pack(work, plan, [shard.id])
        between(shard)
    finalize(work, plan)
    return work.folder.path


@pytest.mark.parametrize("train_text_encoder", [True, False])
def test_given_every_shard_in_a_new_process_losses_and_weights_are_those_of_one_process_bit_for_bit(
    tmp_path: Path, latents: Path, vae: Path, *, train_text_encoder: bool
) -> None:
    values = {"train_text_encoder": train_text_encoder}
    live = finish(diffusion_stage(tmp_path / "live", latents, vae, **values))
    reloaded = finish_afresh(diffusion_stage(tmp_path / "reloaded", latents, vae, **values))
    assert metrics(reloaded) == metrics(live)
    assert sha256_path(final_checkpoint(reloaded)) == sha256_path(final_checkpoint(live))


def test_given_the_next_shard_of_the_same_process_the_state_on_disk_is_not_needed(
    tmp_path: Path, dataset: Path, vae: Path
) -> None:
    work = vae_stage(tmp_path / "vae", dataset)

    def lose_state(shard: Any) -> None:
        for entry in (work.folder.path / "shards").glob("*.state"):
            remove(entry)

    assert losses(run_by_shard(work, between=lose_state)) == losses(vae)


def test_given_a_live_engine_of_another_state_it_is_not_used(tmp_path: Path, latents: Path, vae: Path) -> None:
    def stop_after(shards: Sequence[str], **values: Any) -> Work:
        work = diffusion_stage(tmp_path / "stage", latents, vae, **values)
        run_pack(work, freeze(work), shards)
        return work

    work = stop_after(["00000"])
    receipt = work.folder.path / "receipts" / "00000.json"
    kept = receipt.read_text()
    # Another attempt of the same shard came first: its receipt names a state that this process did not write.
    engine_state = json.loads(kept)
    for data in engine_state["data"]:
        if data["role"] == "state":
            folder = work.folder.path / "shards" / data["name"]
            data["sha256"] = "0" * 64
    receipt.write_text(json.dumps(engine_state))
    remove(folder)
    with pytest.raises(FileNotFoundError):
        stop_after(["00001"])


def test_given_other_intervals_the_losses_are_the_same(
    tmp_path: Path, latents: Path, vae: Path, undisturbed: Path
) -> None:
    whole = finish(diffusion_stage(tmp_path / "whole", latents, vae, checkpoint_every=6))
    uneven = finish(diffusion_stage(tmp_path / "uneven", latents, vae, checkpoint_every=4))
    assert losses(whole) == losses(uneven) == losses(undisturbed)


def test_given_a_batch_in_parts_each_position_has_the_same_image_step_noise_and_caption(
    latents: Path, vae: Path
) -> None:
    task = diffusion_task(latents, vae)
    whole, part = task.batch(3, range(4)), task.batch(3, [2, 3])
    for name in ("latents", "noise", "steps", "token_ids"):
        assert torch.equal(getattr(whole, name)[2:], getattr(part, name))


def test_given_the_state_of_another_model_the_error_says_so(tmp_path: Path, latents: Path, vae: Path) -> None:
    work = diffusion_stage(tmp_path / "stage", latents, vae, ema_decay=None)
    plan = freeze(work)
    run_pack(work, plan, ["00000"])
    forget()
    with_average = diffusion_stage(tmp_path / "stage", latents, vae)
    with pytest.raises(UserError, match="of another model"):
        interval.run_interval(with_average.context, plan.shards[1], tmp_path / "work")


# What the settings do


def test_given_caption_dropout_that_share_of_captions_is_empty(latents: Path, vae: Path) -> None:
    task = diffusion_task(latents, vae, caption_dropout=0.3, batch_size=50)
    empty = torch.from_numpy(task.no_caption)
    dropped = [bool((row == empty).all()) for step in range(20) for row in task.batch(step, range(50)).token_ids]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.05)
    assert not any((diffusion_task(latents, vae, caption_dropout=0.0).batch(0, range(4)).token_ids == empty).all(1))


def test_given_steps_are_drawn_all_of_the_noise_schedule_is_trained(latents: Path, vae: Path) -> None:
    task = diffusion_task(latents, vae, batch_size=50)
    steps = torch.cat([task.batch(step, range(50)).steps for step in range(20)]).float()
    assert steps.min() < 20
    assert steps.max() > 980
    assert steps.mean() == pytest.approx(500, abs=40)


def test_given_a_frozen_text_encoder_only_the_unet_changes(tmp_path: Path, latents: Path, vae: Path) -> None:
    def text_weights(folder: Path) -> bytes:
        return (final_checkpoint(folder) / "text_encoder" / "model.safetensors").read_bytes()

    frozen = finish(diffusion_stage(tmp_path / "frozen", latents, vae, train_text_encoder=False))
    joint = finish(diffusion_stage(tmp_path / "joint", latents, vae))
    assert text_weights(frozen) == text_weights(vae) != text_weights(joint)


def test_given_bf16_the_loss_is_close_to_fp32(tmp_path: Path, latents: Path, vae: Path, undisturbed: Path) -> None:
    mixed = finish(diffusion_stage(tmp_path / "mixed", latents, vae, precision="bf16", steps=2))
    assert losses(mixed)[0] != losses(undisturbed)[0]
    assert losses(mixed)[0] == pytest.approx(losses(undisturbed)[0], rel=0.02)


def test_given_training_the_vae_reconstructs_better(tmp_path: Path, dataset: Path) -> None:
    trained = finish(vae_stage(tmp_path / "vae", dataset, steps=60, checkpoint_every=30, learning_rate=4e-3))
    first, last = (checkpoint.validation_loss for checkpoint in read_checkpoints(trained))
    assert np.mean(losses(trained)[-5:]) < 0.8 * np.mean(losses(trained)[:5])
    assert last < first


# Mistakes


def test_given_a_loss_that_is_not_finite_training_stops_and_names_step_and_images(
    tmp_path: Path, latents: Path, vae: Path
) -> None:
    work = diffusion_stage(tmp_path / "stage", latents, vae)
    plan = freeze(work)
    run_pack(work, plan, ["00000"])
    state = next((work.folder.path / "shards").glob("*.state")) / "state.safetensors"
    poison(state)
    forget()
    with pytest.raises(
        UserError,
        match=r"loss is nan and its gradient's norm nan at step 3, on train-\d+, train-\d+, train-\d+",
    ):
        run_pack(work, plan, ["00001"])
    assert work.folder.done() == {"00000"}
    assert final_is_readable(work)


def test_given_a_validation_loss_that_is_not_finite_training_stops_and_names_stage_and_step(
    tmp_path: Path, latents: Path, vae: Path
) -> None:
    folder = shutil.copytree(latents, tmp_path / "latents")
    cache = LatentCache.open(folder)
    for i, shard in enumerate(cache.info.shards):
        start = sum(int(before["num_images"]) for before in cache.info.shards[:i])
        moments = np.load(folder / str(shard["moments"]))
        moments[(cache.rows["split"] == "val").to_numpy()[start : start + len(moments)]] = np.nan
        np.save(folder / str(shard["moments"]), moments)
    work = diffusion_stage(tmp_path / "stage", folder, vae)
    with pytest.raises(UserError, match="stage 'd': the validation loss is nan after step 2"):
        finish(work)
    assert work.folder.done() == set()


def poison(state: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(state)
    tensors["weights/unet.conv_in.weight"][0] = float("nan")
    save_file(tensors, state)


def final_is_readable(work: Work) -> bool:
    model = work.folder.receipt("00000").path(work.folder.path, "checkpoint")
    return stable_diffusion.load(model) is not None


def test_given_latents_of_another_vae_the_error_says_so(tmp_path: Path, latents: Path) -> None:
    stable_diffusion.save(stable_diffusion.build(NANO, seed=1), tmp_path / "other")
    with pytest.raises(UserError, match="another VAE"):
        freeze(diffusion_stage(tmp_path / "stage", latents, tmp_path / "other"))


def test_given_a_base_that_is_a_folder_with_the_wrong_digest_nothing_is_frozen(
    tmp_path: Path, latents: Path, vae: Path
) -> None:
    base = final_checkpoint(vae)
    with pytest.raises(UserError, match="base_sha256"):
        freeze(diffusion_stage(tmp_path / "stage", latents, base, base_sha256="0" * 64))
    assert not (tmp_path / "stage" / "plan.jsonl").exists()


def test_given_no_held_out_patients_the_error_tells_how_to_do_without(tmp_path: Path) -> None:
    only_train = write_planted(tmp_path / "data", planted_rows(8), size=SIZE).folder
    with pytest.raises(UserError, match="set validation_images: 0"):
        freeze(vae_stage(tmp_path / "vae", only_train))
    done = finish(vae_stage(tmp_path / "vae", only_train, validation_images=0, steps=2))
    assert read_checkpoints(done)[-1].validation_loss is None


def test_given_only_some_training_images_then_whole_patients_are_encoded_and_a_checkpoint_could_say_which(
    tmp_path: Path, vae: Path
) -> None:
    real = write_planted(tmp_path / "real", prompted(planted_rows(12) + planted_rows(4, split="val")), size=SIZE)
    cache = LatentCache.open(finish(latents_stage(tmp_path / "latents", real.folder, vae, train_images=6)))
    chosen = choose_patients(real.of_split("train"), 6)
    assert set(cache.rows.query("split == 'train'")["image_id"]) == set(chosen["image_id"])
    assert len(cache.indices("val")) == 4
    learnt = TrainingData.of(cache.rows, NIH, cache.info.dataset, None)
    assert (learnt.images, learnt.patients) == (6, 3)
    assert learnt.images_sha256 == images_sha256(chosen["image_id"])

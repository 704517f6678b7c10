"""The generate stage with a real, very small Stable Diffusion model, frozen, run and finalized as a run does it."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.generate
from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.generation.settings import GenerateStage
from cxr_core.models.presets import NANO
from cxr_core.models.training_data import TrainingData
from cxr_core.runs.files import read_json, remove, write_json
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from tests.conftest import require
from tests.planted import planted_rows, write_planted

SIZE = NANO.image_size


def nano(prediction: str = "v_prediction") -> Any:
    """A StableDiffusionPipeline with random weights: everything of the real one but the size."""
    from cxr_core.models.stable_diffusion import build

    return build(replace(NANO, scheduler={**NANO.scheduler, "prediction_type": prediction}), seed=0)


def saved(folder: Path, pipeline: Any) -> Path:
    from cxr_core.models.stable_diffusion import save

    save(pipeline, folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("real") / "real", planted_rows(30)).folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model", nano())


def stage(folder: Path, model: Path, real: Path, **values: Any) -> Work:
    """A generate stage of 11 images in `folder`, ready to be worked on."""
    defaults: dict[str, Any] = {
        "inputs": {"model": "m", "like": "r"},
        "request": {"counts": {"Effusion": 6, "No Finding": 5}},
        "denoising_steps": 3,
        "batch_size": 4,
        "shard_size": 8,
        "threads": 1,
    }
    settings = GenerateStage(name="syn", kind="generate", **{**defaults, **values})
    folder.mkdir()
    return Work(StageFolder(folder), jobs.generate, Context(settings, {"model": model, "like": real}, 5, folder), {})


def telling_of(model: Path, real: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of the model that says that it learnt from `real`, and what it says."""
    source = Dataset.open(real)
    learnt = TrainingData.of(source.rows, source.findings, source.info.digest, None).model_dump(mode="json")
    shutil.copytree(model, folder)
    write_json(folder / "training_data.json", learnt)
    return folder, learnt


def finish(work: Work) -> Dataset:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return Dataset.open(work.folder.path)


def test_given_a_request_the_result_is_a_whole_dataset_with_its_provenance(
    tmp_path: Path, model: Path, real: Path
) -> None:
    dataset = finish(stage(tmp_path / "syn", model, real))
    assert list(dataset.verify()) == []
    assert (dataset.info.synthetic, dataset.info.num_images, dataset.info.size) == (True, 11, SIZE)
    assert dataset.rows["labels"].map(lambda bits: dataset.findings.decode(bits)[0]).value_counts().to_dict() == {
        "Effusion": 6,
        "No Finding": 5,
    }
    row = dataset.rows.iloc[0]
    assert row["prompt"].startswith("frontal chest x-ray, ")
    assert (row["split"], row["patient_id"]) == ("synthetic", "")
    assert dataset.info.about["prompts"]["style"] == "clinical"
    assert dataset.info.about["series"][0]["model"] in row["generation"]
    assert dataset.info.about["like"] == Dataset.open(real).info.digest


def test_given_a_model_that_says_what_it_learnt_from_the_dataset_says_it_too_and_its_images_are_the_same(
    tmp_path: Path, model: Path, real: Path
) -> None:
    telling, learnt = telling_of(model, real, tmp_path / "telling")
    told, silent = (finish(stage(tmp_path / one.name[:4], one, real)).info for one in (telling, model))
    assert told.about["series"][0]["training_data"] == learnt
    assert learnt["findings"]["Effusion"] == {"images": 15, "patients": 15}
    assert silent.about["series"][0]["training_data"] is None
    assert told.digest == silent.digest
    assert told.about["series"][0]["model"] == silent.about["series"][0]["model"]


@pytest.mark.parametrize("shard_size", [4, 16])
def test_given_another_shard_size_batches_and_so_pixels_stay_the_same(
    tmp_path: Path, model: Path, real: Path, shard_size: int
) -> None:
    digests = {
        finish(stage(tmp_path / str(size), model, real, shard_size=size)).info.digest for size in (8, shard_size)
    }
    assert len(digests) == 1


def test_given_another_batch_size_pixels_drift_by_at_most_one_grey_level(
    tmp_path: Path, model: Path, real: Path
) -> None:
    one, other = (finish(stage(tmp_path / str(size), model, real, batch_size=size)) for size in (1, 8))
    difference = one.images(one.rows).astype(int) - other.images(other.rows)
    assert np.abs(difference).max() <= 1


def test_given_channels_last_pixels_drift_by_at_most_one_grey_level_and_are_made_again_alike(
    tmp_path: Path, model: Path, real: Path
) -> None:
    from cxr_core.generation.reproduce import reproduce

    one, other = (finish(stage(tmp_path / str(last), model, real, channels_last=last)) for last in (False, True))
    difference = one.images(one.rows).astype(int) - other.images(other.rows)
    assert np.abs(difference).max() <= 1
    assert not reproduce(other, "syn-00000001", model, strict=True).difference.any()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"compile": True}, "compile: true needs a GPU, and torch sees none"),
        ({"attention": "xformers"}, "attention: xformers needs a GPU, and there is none"),
    ],
)
def test_given_no_gpu_what_needs_one_is_refused(
    tmp_path: Path, model: Path, real: Path, values: dict[str, Any], text: str
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=text):
        finish(stage(tmp_path / "syn", model, real, **values))


def test_given_a_lost_shard_it_is_made_again_with_the_same_digest(tmp_path: Path, model: Path, real: Path) -> None:
    work = stage(tmp_path / "syn", model, real)
    before = finish(work)
    receipt = work.folder.receipt("00001")
    remove(work.folder.path / "receipts" / "00001.json")
    for data in receipt.data:
        remove(work.folder.path / "shards" / data.name)
    after = finish(work)
    assert work.folder.receipt("00001").digest == receipt.digest
    assert after.info == before.info


FEW = {"request": {"counts": {"Effusion": 4}, "view": "PA"}}


def with_scheduler(folder: Path, model: Path, **values: Any) -> Path:
    """A copy of a model whose scheduler config says this too."""
    shutil.copytree(model, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | values)
    return folder


def test_given_leftovers_in_the_scheduler_config_images_are_the_same_and_each_option_is_recorded(
    tmp_path: Path, model: Path, real: Path
) -> None:
    left = with_scheduler(
        tmp_path / "left", model, use_karras_sigmas=True, solver_order=3, final_sigmas_type="sigma_min"
    )
    drawn, plain = (finish(stage(tmp_path / name, one, real, **FEW)) for name, one in (("a", left), ("b", model)))
    assert drawn.info.digest == plain.info.digest
    (series,) = drawn.info.about["series"]
    assert (series["noise"], series["solver"]["use_karras_sigmas"]) == ("philox", False)
    assert (series["solver"]["prediction_type"], series["solver"]["solver_order"]) == ("v_prediction", 2)
    assert '"noise":"philox"' in drawn.rows["generation"].iloc[0]


def test_given_a_model_that_was_trained_to_pure_noise_that_is_taken_over_and_recorded(
    tmp_path: Path, model: Path, real: Path
) -> None:
    from cxr_core.generation.reproduce import reproduce

    zero = with_scheduler(tmp_path / "zero", model, rescale_betas_zero_snr=True)
    drawn, plain = (finish(stage(tmp_path / name, one, real, **FEW)) for name, one in (("a", zero), ("b", model)))
    assert drawn.info.digest != plain.info.digest
    assert drawn.info.about["series"][0]["solver"]["rescale_betas_zero_snr"] is True
    assert not reproduce(drawn, "syn-00000001", zero, strict=True).difference.any()
    path = zero / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | {"prediction_type": "epsilon"})
    with pytest.raises(UserError, match="begins at noise alone") as caught:
        finish(stage(tmp_path / "c", zero, real, **FEW))
    assert caught.value.where == str(path)


@pytest.mark.parametrize("name", ["dpmsolver++", "ddpm"])
def test_given_a_plan_of_an_older_version_it_is_finished_and_its_images_are_made_again_as_that_version_did(
    tmp_path: Path, model: Path, real: Path, name: str
) -> None:
    import torch

    from cxr_core.generation.reproduce import reproduce
    from cxr_core.models.noise import generators
    from cxr_core.models.solver import inherited

    left = with_scheduler(tmp_path / "left", model, use_karras_sigmas=True, thresholding=True)
    work = stage(tmp_path / "syn", left, real, **FEW, scheduler=name, denoising_steps=4)
    plan = freeze(work)
    facts = read_json(work.context.plan_folder / "model.json")
    for key in ("noise", "solver"):
        del facts["series"][0][key]
    write_json(work.context.plan_folder / "model.json", facts)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    drawn = Dataset.open(work.folder.path)
    torch.set_num_threads(1)
    pipeline = nano()
    pipeline.scheduler = inherited(name, read_json(left / "scheduler" / "scheduler_config.json"))
    rows = drawn.rows
    noise = generators(rows["seed"])
    images = pipeline(list(rows["prompt"]), num_inference_steps=4, guidance_scale=5, output_type="np", generator=noise)
    assert np.abs(drawn.images(rows) - (images.images * 255).mean(axis=-1)).max() <= 1
    assert not reproduce(drawn, "syn-00000001", left, strict=True).difference.any()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["dpmsolver++", "ddim", "ddpm"])
def test_given_the_same_noise_pixels_equal_those_of_the_diffusers_pipeline(
    tmp_path: Path, name: str, prediction: str
) -> None:
    import torch

    from cxr_core.generation.shard import to_uint8
    from cxr_core.models.noise import Philox, generators
    from cxr_core.models.sampler import decode, encode_prompts, load_model, make_scheduler, sample

    torch.set_num_threads(1)
    pipeline = nano(prediction)
    saved(tmp_path / "model", pipeline)
    pipeline.scheduler = make_scheduler(pipeline.scheduler.config, name)
    pipeline.set_progress_bar_config(disable=True)
    prompts, seeds = ["chest, edema", "chest", "chest, no finding"], [11, 2**62 + 22, 33]
    # The pipeline takes the noise of DDPM's steps from generators of torch alone.
    noise = {"generator": generators(seeds)} if name == "ddpm" else {"latents": Philox(seeds, (4, 8, 8)).draw()}
    theirs = pipeline(prompts, num_inference_steps=5, guidance_scale=4.0, output_type="np", **noise).images
    model = load_model(tmp_path / "model", "float32")
    texts = encode_prompts(model, ["", *prompts])
    embeddings = torch.cat([texts[prompt] for prompt in prompts])
    how = {"noise": "mt19937"} if name == "ddpm" else {}
    latents = sample(model, embeddings, texts[""], seeds, scheduler=name, steps=5, guidance=4.0, **how)
    ours = to_uint8(decode(model, latents))
    assert ours.std() > 1
    assert np.abs(ours - (theirs * 255).mean(axis=-1)).max() <= 1


def test_given_guidance_one_the_unconditional_half_is_not_computed_and_pixels_equal_the_pipeline(
    tmp_path: Path,
) -> None:
    from cxr_core.models.noise import Philox
    from cxr_core.models.sampler import decode, encode_prompts, load_model, make_scheduler, sample

    pipeline = nano()
    saved(tmp_path / "model", pipeline)
    pipeline.scheduler = make_scheduler(pipeline.scheduler.config, "ddim")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["chest"], num_inference_steps=4, guidance_scale=1.0, latents=Philox([7], (4, 8, 8)).draw(), output_type="np"
    ).images
    model = load_model(tmp_path / "model", "float32")
    texts = encode_prompts(model, ["", "chest"])
    ours = decode(model, sample(model, texts["chest"], texts[""], [7], scheduler="ddim", steps=4, guidance=1.0))
    assert np.abs(ours - (theirs * 255).mean(axis=-1)).max() <= 1


def with_last_layer(folder: Path, value: float) -> Path:
    """A model whose VAE gives `value` for every pixel."""
    import torch

    pipeline = nano()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.fill_(0)
        pipeline.vae.decoder.conv_out.bias.fill_(value)
    return saved(folder, pipeline)


def test_given_a_model_that_overflows_to_nan_the_shard_fails_and_names_the_images(tmp_path: Path, real: Path) -> None:
    import torch

    pipeline = nano()
    with torch.no_grad():
        pipeline.vae.decoder.conv_norm_out.weight.fill_(3e38)
    broken = saved(tmp_path / "broken", pipeline)
    work = stage(tmp_path / "syn", broken, real)
    with pytest.raises(UserError, match="NaN for 4 of 4 images: syn-00000000, syn-00000001"):
        finish(work)
    assert not work.folder.done()
    assert not (work.folder.path / "index.parquet").exists()


def test_given_a_disk_that_fills_up_in_mid_shard_that_is_said_and_with_room_the_shard_is_made(
    tmp_path: Path, model: Path, real: Path
) -> None:
    from tests.slurm.faults import small_disk

    settings = {"request": {"like": "train", "num_images": 400}, "denoising_steps": 1, "guidance": 1}
    sizes = {"batch_size": 40, "shard_size": 400}
    with small_disk(tmp_path / "small", "size=1m") as (disk, reason):
        require("mount", disk is not None, reason)
        assert disk is not None
        work = stage(disk / "syn", model, real, **settings, **sizes)
        with pytest.raises(OSError, match="No space left on device"):
            finish(work)
        assert not work.folder.done()
        assert not list((work.folder.path / "receipts").glob("*.json"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert finish(work).info.num_images == 400


def test_given_a_model_that_gives_blank_images_each_is_named_in_problems_csv(tmp_path: Path, real: Path) -> None:
    dataset = finish(stage(tmp_path / "syn", with_last_layer(tmp_path / "blank", 0.0), real))
    lines = (dataset.folder / "problems.csv").read_text().splitlines()
    assert lines[1].startswith("blank,syn-00000000,,grey values spread by only 0.00 of 255")
    assert sum(line.startswith("blank,") for line in lines) == 11


def test_given_too_little_memory_for_a_batch_it_is_halved_and_each_image_can_still_be_made_again(
    tmp_path: Path, model: Path, real: Path
) -> None:
    import json

    import torch

    from cxr_core.generation.reproduce import reproduce
    from cxr_core.models.sampler import load_model

    def no_room_for_three(_: Any, given: Any) -> None:
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    cached = load_model(model, "float32", channels_last=False, compiled=False)
    hook = cached.unet.register_forward_pre_hook(no_room_for_three)
    try:
        dataset = finish(stage(tmp_path / "syn", model, real, guidance=1))
    finally:
        hook.remove()
    assert dataset.info.about["batch_size"] == 4
    assert dataset.info.about["smallest_batch"] == 2
    assert {json.loads(text)["batch_size"] for text in dataset.rows["generation"]} == {2}
    for image_id in dataset.rows["image_id"].iloc[[0, 3, 10]]:
        assert not reproduce(dataset, image_id, model, strict=True).difference.any()


def test_given_a_finding_that_the_model_never_saw_plan_and_problems_warn_of_it(
    tmp_path: Path, model: Path, real: Path
) -> None:
    telling, _ = telling_of(model, real, tmp_path / "telling")
    request = {"counts": {"Hernia": 2, "Effusion": 2}, "view": "PA"}
    work = stage(tmp_path / "syn", telling, real, request=request)
    warning = "Hernia is a word that the model never saw"
    notes = jobs.generate.estimate(work.context.settings, work.context.inputs).notes
    assert [note for note in notes if "never saw" in note] == [f"{warning}: no image that it learnt from has it"]
    dataset = finish(work)
    assert dataset.info.about["unseen"] == ["Hernia"]
    assert warning in (dataset.folder / "problems.csv").read_text()


def test_given_a_constant_model_equal_pixels_are_named_in_whatever_shard(tmp_path: Path, real: Path) -> None:
    dataset = finish(stage(tmp_path / "syn", with_last_layer(tmp_path / "grey", 0.1), real))
    lines = (dataset.folder / "problems.csv").read_text().splitlines()
    assert sum(line.startswith("duplicate_pixels,") for line in lines) == 10


def test_given_a_dataset_without_prompt_settings_freezing_is_refused(tmp_path: Path, model: Path, real: Path) -> None:
    from cxr_core.runs.files import read_json, write_json

    like = tmp_path / "like"
    like.mkdir()
    (like / "index.parquet").write_bytes((real / "index.parquet").read_bytes())
    write_json(like / "dataset.json", {**read_json(real / "dataset.json"), "about": {}})
    with pytest.raises(UserError, match="does not say how its prompts were written"):
        freeze(stage(tmp_path / "syn", model, like))


def test_given_a_real_dataset_the_estimate_states_the_exact_distribution(real: Path, model: Path) -> None:
    settings = GenerateStage(
        name="syn",
        kind="generate",
        inputs={"model": "m", "like": "r"},
        request={"counts": {"No Finding": 300}},
        batch_size=50,
        shard_size=100,
    )
    found = jobs.generate.estimate(settings, {"model": model, "like": real})
    assert (found.num_items, found.num_shards, found.num_files) == (300, 3, 16)
    distribution, warning, base = found.notes
    assert distribution == "300 No Finding (AP 100, PA 200)"
    assert "predicts v, 32 px" in base
    assert warning.startswith("1 of 2 captions asked for are held by at most 5 training patients, e.g. No Finding AP")
    assert found.num_bytes > 300 * SIZE * SIZE / 2

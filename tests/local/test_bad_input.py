"""What training is given and cannot work with: told before it starts, with the file or the stage that is to blame."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.presets import NANO
from cxr_core.runs.pack import freeze, run_pack
from cxr_core.training import interval
from jobs.config import RunConfig
from jobs.launch import estimates
from tests.planted import planted_rows, write_planted
from tests.training import SIZE, diffusion_stage, finish, forget, latents_stage, prompted


@pytest.fixture(scope="module")
def large_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nano_base` with a denoiser for images of twice the size; its VAE is the same, as with Stable Diffusion 2.1."""
    preset = dataclasses.replace(NANO, unet={**NANO.unet, "sample_size": 16})
    folder = tmp_path_factory.mktemp("large") / "base"
    stable_diffusion.save(stable_diffusion.build(preset, seed=3), folder)
    return folder


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_given_a_base_without_all_of_its_weights_nothing_is_frozen_and_the_file_is_named(
    tmp_path: Path, nano_latents: Path, nano_base: Path, part: str, harm: str
) -> None:
    base = shutil.copytree(nano_base, tmp_path / "base")
    path = next((base / part).glob("*.safetensors"))
    data = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(data[:-4])
    with pytest.raises(UserError, match=f"base/{part}/{path.name}: (is missing|cut off)"):
        freeze(diffusion_stage(tmp_path / "stage", nano_latents, base))
    real = write_planted(tmp_path / "real", prompted(planted_rows(4)), size=SIZE).folder
    with pytest.raises(UserError, match=f"base/{part}/{path.name}: (is missing|cut off)"):
        freeze(latents_stage(tmp_path / "latents", real, base))
    assert not list(tmp_path.glob("*/plan.jsonl"))


def test_given_images_of_another_size_than_the_base_the_plan_says_so_before_there_are_any(nano_base: Path) -> None:
    real = {"name": "real", "kind": "preprocess", "data": {"kind": "phantom", "num_images": 4}, "size": 64}
    latents = {"name": "latents", "kind": "latents", "inputs": {"dataset": "real", "base": str(nano_base)}}
    config = RunConfig.model_validate({"name": "a", "stages": [real, latents]})
    with pytest.raises(UserError, match=r"inputs\.dataset 'real': its images are 64 pixels a side, .* made for 32"):
        estimates(config)


def test_given_latents_of_another_size_than_the_base_by_the_same_vae_nothing_is_frozen(
    tmp_path: Path, nano_latents: Path, large_base: Path
) -> None:
    with pytest.raises(UserError, match="the latents are 8 x 8 of 4 channels, but the base was made for 16 x 16 of 4"):
        freeze(diffusion_stage(tmp_path / "stage", nano_latents, large_base))


def test_given_a_prior_of_another_size_than_the_training_images_nothing_is_frozen_and_it_is_named(
    tmp_path: Path, nano_latents: Path, nano_base: Path, large_base: Path
) -> None:
    made = write_planted(
        tmp_path / "made", prompted(planted_rows(4, split="synthetic")), size=2 * SIZE, synthetic=True
    ).folder
    prior = finish(latents_stage(tmp_path / "prior", made, large_base))
    with pytest.raises(UserError, match=r"/prior and .*: the latents are 16 x 16 of 4 channels"):
        freeze(diffusion_stage(tmp_path / "stage", nano_latents, nano_base, prior=prior))
    assert not (tmp_path / "stage" / "plan.jsonl").exists()


def test_given_a_checkpoint_of_another_config_it_is_not_gone_on_with(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    work = diffusion_stage(tmp_path / "stage", nano_latents, nano_base, lora={"rank": 4})
    plan = freeze(work)
    run_pack(work, plan, ["00000"])
    other = diffusion_stage(tmp_path / "stage", nano_latents, nano_base, lora={"rank": 2})
    with pytest.raises(UserError, match="frozen for other inputs or settings"):
        freeze(other)
    # And where a state is read all the same:
    forget()
    with pytest.raises(UserError, match=r"\.state: the training state is of another model, other settings"):
        interval.run_interval(other.context, plan.shards[1], tmp_path / "work")

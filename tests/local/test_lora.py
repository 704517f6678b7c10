"""Adapters: what is trained, that it resumes exactly, and that both exported forms are the model that was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import jobs.train
from cxr_core.errors import UserError
from cxr_core.export.model import export_model
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.lora import save_adapter
from cxr_core.models.lora_files import DIFFUSERS, KOHYA
from cxr_core.runs.files import sha256_path
from cxr_core.runs.stage import Estimate
from tests.training import diffusion_stage, diffusion_task, finish, finish_afresh, metrics

LORA = {"lora": {"rank": 4, "alpha": 8.0}, "steps": 4, "learning_rate": 0.05, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def adapted(nano_latents: Path, nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(diffusion_stage(tmp_path_factory.mktemp("lora") / "stage", nano_latents, nano_base, **LORA))


@torch.no_grad()
def prediction(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    """What the model predicts for a fixed input and a fixed prompt."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = pipeline.text_encoder(stable_diffusion.tokenize(pipeline.tokenizer, ["frontal chest x-ray, effusion"]))[0]
    return pipeline.unet(latents, 300, encoder_hidden_states=text).sample


def test_given_adapters_only_they_are_trained_and_they_start_at_nothing(nano_latents: Path, nano_base: Path) -> None:
    task = diffusion_task(nano_latents, nano_base, lora={"rank": 4})
    trained = {name for name, parameter in task.module.named_parameters() if parameter.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert {name.split(".")[0] for name in trained} == {"unet", "text_encoder"}
    plain = prediction(stable_diffusion.load(nano_base))
    assert torch.allclose(prediction(task.pipeline), plain, atol=1e-6)


def test_given_one_part_adapters_are_on_it_alone(nano_latents: Path, nano_base: Path) -> None:
    def trained(**values: bool) -> set[str]:
        task = diffusion_task(nano_latents, nano_base, lora={"rank": 4}, **values)
        return {name.split(".")[0] for name, parameter in task.module.named_parameters() if parameter.requires_grad}

    assert trained(train_text_encoder=False) == {"unet"}
    assert trained(train_unet=False) == {"text_encoder"}


def test_given_a_checkpoint_the_merged_folder_and_base_plus_adapter_are_one_model(
    adapted: Path, nano_base: Path
) -> None:
    checkpoint = final_checkpoint(adapted)
    merged = prediction(StableDiffusionPipeline.from_pretrained(str(checkpoint)))
    base = StableDiffusionPipeline.from_pretrained(str(nano_base))
    before = prediction(base)
    base.load_lora_weights(str(checkpoint / "lora"))
    assert torch.allclose(prediction(base), merged, atol=1e-5)
    assert (merged - before).abs().max() > 1e-2
    names = [(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (checkpoint, nano_base)]
    ours, theirs = (load_file(path) for path in names)
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == {
        name for name in ours if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
    }


def test_given_a_stage_with_adapters_its_export_has_them_in_both_forms_beside_the_merged_model(
    adapted: Path, nano_base: Path, tmp_path: Path
) -> None:
    export_model(adapted, tmp_path / "out", "float32")
    merged = prediction(stable_diffusion.load(tmp_path / "out"))
    for name in (DIFFUSERS, KOHYA):
        base = stable_diffusion.load(nano_base)
        base.load_lora_weights(str(tmp_path / "out" / "lora"), weight_name=name)
        assert torch.allclose(prediction(base), merged, atol=1e-5), name


def test_given_every_shard_in_a_new_process_adapters_resume_bit_for_bit(
    tmp_path: Path, nano_latents: Path, nano_base: Path, adapted: Path
) -> None:
    again = finish_afresh(diffusion_stage(tmp_path / "stage", nano_latents, nano_base, **LORA))
    assert metrics(again) == metrics(adapted)
    assert sha256_path(final_checkpoint(again)) == sha256_path(final_checkpoint(adapted))


def test_given_adapters_the_training_state_holds_nothing_of_the_base(adapted: Path) -> None:
    state = load_file(next((adapted / "shards").glob("*.state")) / "state.safetensors")
    assert all(".lora_" in name for name in state if name.startswith("weights/"))


@pytest.mark.parametrize("values", [LORA, LORA | {"lora": None}, LORA | {"lora": None, "train_text_encoder": False}])
def test_given_what_is_trained_the_plan_counts_whole_checkpoints_and_a_state_of_that_alone(
    tmp_path: Path, nano_latents: Path, nano_base: Path, values: dict[str, Any]
) -> None:
    work = diffusion_stage(tmp_path / "stage", nano_latents, nano_base, **values)
    planned = jobs.train.estimate(work.context.settings, {"latents": Estimate(1, 1, 1, 1), "base": nano_base}).num_bytes
    written = sum(path.stat().st_size for path in (finish(work) / "shards").rglob("*.safetensors"))
    # The names of tensors are a part of so small a file.
    assert planned == pytest.approx(written, rel=0.1)


def test_given_one_adapter_it_is_written_with_the_same_bytes_each_time(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    pipeline = diffusion_task(nano_latents, nano_base, lora={"rank": 4}).pipeline
    for i in range(6):
        save_adapter(pipeline, tmp_path / str(i))
    assert len({sha256_path(tmp_path / str(i)) for i in range(6)}) == 1


def test_given_layers_that_the_model_does_not_have_the_error_names_them(nano_latents: Path, nano_base: Path) -> None:
    with pytest.raises(UserError, match="no adapter can be added to to_nowhere of a UNet2DConditionModel"):
        diffusion_task(nano_latents, nano_base, lora={"unet_targets": ["to_nowhere"]})

"""Memory of fine-tuning, by arithmetic: against what torch has and keeps."""

import json
import math
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.runs.files import write_json
from cxr_core.runs.stage import Estimate
from cxr_core.training.memory import Memory, memory_of, notes
from cxr_core.training.settings import DiffusionTrain

BASE = BUILT_IN["tiny_base"]


def settings(**values: object) -> DiffusionTrain:
    given = {"steps": 10, "batch_size": 4, "checkpoint_every": 10, "learning_rate": 1e-3, "name": "t", "kind": "train"}
    return DiffusionTrain(**{**given, "model": "diffusion", "inputs": {"latents": "l", "base": "b"}, **values})


def test_given_the_tiny_base_its_parts_are_those_that_torch_counts() -> None:
    import torch
    from diffusers import UNet2DConditionModel

    from cxr_core.models.presets import TINY

    with torch.device("meta"):
        unet = sum(p.numel() for p in UNet2DConditionModel(**TINY.unet).parameters())
    alone = memory_of(settings(train_text_encoder=False, ema_decay=None), BASE)
    # The moving averages and the places of positions are tensors of the file too: a handful of numbers.
    assert alone.weights == pytest.approx(4 * TINY.num_parameters, rel=1e-3)
    assert alone.trained == alone.gradients == 4 * unet
    assert (alone.optimizer, alone.average) == (8 * unet, 0)
    assert memory_of(settings(), BASE).average == memory_of(settings(), BASE).trained > alone.trained


@pytest.mark.parametrize("checkpointing", [True, False])
def test_given_the_tiny_base_activations_are_within_a_fifth_of_what_torch_keeps(checkpointing: bool) -> None:
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from cxr_core.models import stable_diffusion

    unet, kept = stable_diffusion.load(BASE).unet, {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    if checkpointing:
        unet.enable_gradient_checkpointing()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = unet(torch.zeros(4, 4, 16, 16), 5, encoder_hidden_states=torch.zeros(4, 77, 128)).sample
    values = {"train_text_encoder": False, "gradient_checkpointing": checkpointing}
    planned = memory_of(settings(**values), BASE).activations
    one_layer = 4 * 4 * 2 * 19.5 * 32 * 16**2 if checkpointing else 0
    assert planned - one_layer == pytest.approx(sum(size for size, _ in kept.values()), rel=0.2)


@pytest.fixture(scope="module")
def sd21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configs of Stable Diffusion 2.1-base and files of its tensors' sizes that are one hole."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from cxr_core.models.presets import SD21_BASE

    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**SD21_BASE.text_encoder))
        parts = {
            "unet": UNet2DConditionModel(**SD21_BASE.unet),
            "text_encoder": text,
            "vae": AutoencoderKL(**SD21_BASE.vae),
        }
    folder = tmp_path_factory.mktemp("sd21")
    for name, config in {"unet": SD21_BASE.unet, "text_encoder": SD21_BASE.text_encoder, "vae": SD21_BASE.vae}.items():
        (folder / name).mkdir()
        write_json(folder / name / "config.json", dict(config))
        shapes = {key: tuple(parameter.shape) for key, parameter in parts[name].named_parameters()}
        write_hollow(folder / name / "diffusion_pytorch_model.safetensors", shapes)
    return folder


def write_hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float32 tensors that takes no room on the disk."""
    header, stop = {}, 0
    for name, shape in shapes.items():
        start, stop = stop, stop + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + stop)


def test_given_sd21_its_unet_alone_without_an_average_needs_14_5_gib_and_activations(sd21: Path) -> None:
    alone = {"train_text_encoder": False, "ema_decay": None, "batch_size": 1}
    plain, again = (memory_of(settings(gradient_checkpointing=yes, **alone), sd21) for yes in (False, True))
    assert (plain.total - plain.activations) / 2**30 == pytest.approx(14.48, abs=0.01)
    # What torch 2.13 keeps of one image at 64 x 64 latents, counted on fake tensors: 1,784 and 295 MiB.
    assert plain.activations / 2**20 == pytest.approx(1784, rel=0.02)
    one_layer = 4 * 2 * 19.5 * 320 * 64**2
    assert (again.activations - one_layer) / 2**20 == pytest.approx(295, rel=0.02)


def test_given_micro_batches_and_adapters_memory_falls_by_what_they_spare() -> None:
    whole = memory_of(settings(), BASE)
    assert memory_of(settings(micro_batch=1), BASE).activations == pytest.approx(whole.activations / 4, abs=2)
    adapted = memory_of(settings(lora={"rank": 4}), BASE)
    assert adapted.weights == whole.weights + adapted.trained
    assert 0 < adapted.optimizer < whole.optimizer / 20


def test_given_gpus_that_share_each_zero_stage_splits_one_more_thing() -> None:
    memory = Memory(weights=100, trained=80, gradients=80, optimizer=160, average=80, activations=7)
    assert [memory.by_zero_stage(stage, 8) for stage in range(4)] == [427, 427 - 140, 427 - 210, 427 - 280]


def test_given_a_base_that_another_stage_trains_its_size_is_that_of_where_it_starts() -> None:
    import jobs.train

    first = jobs.train.estimate(settings(), {"latents": Estimate(1, 1, 1, 1), "base": BASE})
    second = jobs.train.estimate(settings(), {"latents": Estimate(1, 1, 1, 1), "base": first})
    assert second.notes[-2:] == first.notes[-2:] == notes(settings(), BASE)
    assert "by ZeRO stage, in GiB: 0: " in first.notes[-1]


def test_given_ranks_the_plan_says_what_each_of_them_has() -> None:
    given = settings(batch_size=24, micro_batch=4, ranks={"nodes": 2, "per_node": 2, "zero": 2})
    memory = memory_of(given, BASE)
    each = memory.by_zero_stage(2, 4) + memory.trained // 4
    line = "4 ranks (2 x 2), ZeRO 2: each has 6 of 24 images a step, in 2 parts of at most 4; memory of its GPU "
    assert notes(given, BASE)[-1] == f"{line}{each / 2**30:.2g} GiB"


def test_given_a_base_without_safetensors_the_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        memory_of(settings(), tmp_path)

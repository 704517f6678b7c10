"""Weights as people have them: opened, imported by one command, or refused before work starts, in words."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from typer.testing import CliRunner

from cxr_core.errors import UserError
from cxr_core.evaluation.features import _open as open_extractor
from cxr_core.models import stable_diffusion
from cxr_core.models.base import inspect_base
from cxr_core.models.checkpoints import (
    files_sha256,
    final_checkpoint,
    has_vae,
    has_weights,
    lock_base,
    vae_sha256,
    weights_sha256,
)
from cxr_core.models.configs import DEFAULTS
from cxr_core.models.expected import expected
from cxr_core.models.importing.base import import_base
from cxr_core.models.importing.judge import check_findings
from cxr_core.models.importing.lora import import_lora
from cxr_core.models.parts import PARTS
from cxr_core.models.presets import NANO, SD21_BASE
from cxr_core.models.tensors import content_sha256
from cxr_core.runs.files import read_json
from jobs.model import app
from tests.layouts import original_file, published_sd21
from tests.pipeline import cxr
from tests.vision import small_vit

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def published(clip_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano weights with the files of Stable Diffusion 2.1-base."""
    return published_sd21(tmp_path_factory.mktemp("published") / "sd21", clip_tokenizer)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to harm, with the safetensors of single precision alone."""
    beside = shutil.ignore_patterns("*.bin", "*.fp16.*")
    return shutil.copytree(published, tmp_path / "base", ignore=beside)


def _weights(folder: Path, part: str) -> Path:
    return folder / part / f"{WEIGHTS[part]}.safetensors"


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _rename(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = _weights(folder, part)
    save_file(change(load_file(path)), path)


def _pickled(folder: Path) -> None:
    for part in PARTS:
        path = _weights(folder, part)
        stem = "pytorch_model" if part == "text_encoder" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()


def _resaved(folder: Path) -> None:
    """By diffusers, in shards."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, feature_extractor=None, safety_checker=None)
    pipeline.unet.register_to_config(sample_size=8)
    shutil.rmtree(folder)
    pipeline.save_pretrained(folder, max_shard_size="200KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1


def _by_us(folder: Path) -> None:
    pipeline = stable_diffusion.load(folder)
    shutil.rmtree(folder)
    stable_diffusion.save(pipeline, folder)


def _wrapped(folder: Path) -> None:
    for part in PARTS:
        _rename(folder, part, lambda found: {f"module.{name}": tensor for name, tensor in found.items()})


@pytest.mark.parametrize(
    ("layout", "imports"), [(_resaved, False), (_by_us, False), (_pickled, True), (_wrapped, True)]
)
def test_given_one_model_in_two_layouts_then_it_has_one_digest(
    layout: Callable[[Path], None], imports: bool, published: Path, folder: Path, tmp_path: Path
) -> None:
    layout(folder)
    if imports:
        with pytest.raises(UserError, match=rf"cxr model import {folder} OUT --as base"):
            inspect_base(folder)
        import_base(folder, tmp_path / "imported")
        folder = tmp_path / "imported"
    assert weights_sha256(folder) == weights_sha256(published)
    assert vae_sha256(folder) == vae_sha256(published)


def test_given_the_vae_of_the_library_then_its_digest_is_of_its_own_names(published: Path, folder: Path) -> None:
    _by_us(folder)
    opened = AutoencoderKL.from_pretrained(published / "vae").state_dict()
    assert "decoder.mid_block.attentions.0.to_q.weight" in opened
    assert vae_sha256(published) == content_sha256(_weights(folder, "vae"))
    assert content_sha256(_weights(published, "vae")) != vae_sha256(published)


def test_given_a_file_of_the_original_code_when_it_is_imported_then_it_is_the_same_model(
    published: Path, tmp_path: Path
) -> None:
    words = [original_file(tmp_path / "sd.safetensors"), tmp_path / "out", "--as", "base", "--like", published]
    done = CliRunner().invoke(app, ["import", *map(str, words)], catch_exceptions=False)
    assert f"predicts epsilon, 32 px, sha256 {weights_sha256(published)}" in done.stdout
    assert weights_sha256(tmp_path / "out") == weights_sha256(published)


def test_given_one_other_number_or_another_prediction_then_the_digest_is_another(folder: Path) -> None:
    before = weights_sha256(folder)
    _rename(folder, "vae", lambda found: found | {"quant_conv.bias": found["quant_conv.bias"] + 1e-6})
    other = weights_sha256(folder)
    _change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert len({before, other, weights_sha256(folder)}) == 3


def test_given_fp16_files_alone_then_they_are_opened_as_the_numbers_that_they_hold(
    published: Path, folder: Path
) -> None:
    for part in PARTS:
        _weights(folder, part).unlink()
        name = f"{WEIGHTS[part]}.fp16.safetensors"
        shutil.copyfile(published / part / name, folder / part / name)
    assert "half precision: unet, vae, text_encoder" in inspect_base(folder).words
    weight = stable_diffusion.load(folder).unet.conv_in.weight
    assert torch.equal(weight, stable_diffusion.load(published).unet.conv_in.weight.half().float())


def test_given_the_published_files_then_every_part_is_what_the_libraries_open(published: Path) -> None:
    ours = stable_diffusion.load(published)
    theirs = StableDiffusionPipeline.from_pretrained(published, feature_extractor=None, safety_checker=None)
    for part in PARTS:
        wanted, found = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    prompt = "frontal chest x-ray, PA view, pleural effusion"
    ids = stable_diffusion.tokenize(ours.tokenizer, [prompt])
    assert torch.equal(ids, stable_diffusion.tokenize(theirs.tokenizer, [prompt]))
    assert ids[0, -1] == 0, "Stable Diffusion 2 fills up with '!', not with the end mark"


def _without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda found: {each: tensor for each, tensor in found.items() if name not in each}


def _beside(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda found: found | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("text_encoder", _without("layers.1."), "16 are missing: encoder.layers.1.layer_norm1.bias, "),
        ("text_encoder", lambda found: {f"module.{n}": t for n, t in found.items()}, "module.text_model.embeddings"),
        ("text_encoder", _beside("text_model.encoder.layers.2.mlp.fc1.bias", 64), "something else: encoder.layers.2"),
        ("unet", _without("mid_block.attentions.0.proj_in.bias"), "1 are missing: mid_block.attentions.0.proj_in.bias"),
        ("unet", _beside("conv_in.weight", 16, 9, 3, 3), r"conv_in.weight is (16, 9, 3, 3), not (16, 4, 3, 3)"),
        ("vae", _without("mid_block.attentions.0.query.bias"), "decoder.mid_block.attentions.0.to_q.bias"),
        ("vae", _beside("loss.logvar"), "1 are of something else: loss.logvar"),
    ],
)  # fmt: skip
def test_given_weights_that_do_not_fill_a_part_then_the_tensors_are_named_before_anything_is_opened(
    part: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], said: str, folder: Path
) -> None:
    _rename(folder, part, change)
    for opened in (inspect_base, stable_diffusion.load):
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            opened(folder)
        assert str(folder / part) in caught.value.where


def test_given_an_old_and_a_new_name_of_one_tensor_then_both_are_named(folder: Path) -> None:
    name = "decoder.mid_block.attentions.0.to_q.bias"
    _rename(folder, "vae", lambda found: found | {name: found[name.replace("to_q", "query")] + 1})
    with pytest.raises(UserError, match=rf"query\.bias and {re.escape(name)} are both there|{re.escape(name)} and"):
        inspect_base(folder)


def test_given_weights_that_are_not_finite_then_freeze_and_import_name_the_tensor(folder: Path, tmp_path: Path) -> None:
    name = "up_blocks.0.resnets.0.conv1.bias"
    _rename(folder, "unet", lambda found: found | {name: torch.full_like(found[name], torch.nan)})
    with pytest.raises(UserError, match=rf"{name} has values that are not finite"):
        lock_base(inspect_base(folder), None, tmp_path / "base.json")
    with pytest.raises(UserError, match=rf"not finite: {name}"):
        import_base(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


MOST = 10**30


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels, not 4: it was made for inpainting"),
        ("unet/config.json", {"in_channels": 8}, "takes 8 channels, not 4: it was made for editing"),
        ("unet/config.json", {"out_channels": 8}, "gives 8 channels, not 4"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ("unet/config.json", {"num_class_embeds": 7}, "num_class_embeds is 7"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "guidance scale as an input"),
        ("unet/config.json", {"cross_attention_dim": 768}, "texts 768 wide, and the text encoder gives 32"),
        ("unet/config.json", {"sample_size": None}, "sample_size is None"),
        ("unet/config.json", {"sample_size": [8, 8]}, "sample_size is [8, 8]"),
        ("unet/config.json", {"sample_size": [8, 16]}, "images here are square"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor is set"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": None}, '"model_max_length": 77'),
        ("tokenizer/tokenizer_config.json", {"model_max_length": MOST}, "model_max_length is 1e+30"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 40}, "model_max_length is 40, where"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "predicts 'flow'"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "predicts 'flow'"),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "a StableDiffusionXLPipeline, and only"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "its vae is 'AutoencoderTiny'"),
    ],
)  # fmt: skip
def test_given_a_base_that_cannot_be_used_then_the_plan_says_so_in_words_and_names_the_file(
    file: str, values: dict[str, Any], said: str, folder: Path
) -> None:
    _change(folder / file, **values)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        inspect_base(folder)
    assert caught.value.where == str(folder / file)
    assert caught.value.hint


@pytest.mark.parametrize(("sample_size", "options"), [([8, 8], {}), (None, {"image_size": 32})])
def test_given_a_base_that_import_can_mend_then_the_copy_is_the_same_model_and_opens(
    sample_size: list[int] | None, options: dict[str, Any], published: Path, folder: Path, tmp_path: Path
) -> None:
    _change(folder / "unet" / "config.json", sample_size=sample_size)
    _change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=MOST)
    _change(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert import_base(folder, tmp_path / "out", **options).image_size == 32
    assert weights_sha256(tmp_path / "out") == weights_sha256(published)


def _no_file(folder: Path) -> str:
    _weights(folder, "unet").unlink()
    return "unet/diffusion_pytorch_model.safetensors: is missing"


def _cut_off(folder: Path) -> str:
    path = _weights(folder, "text_encoder")
    path.write_bytes(path.read_bytes()[:-10])
    return "cut off"


def _lfs(folder: Path) -> str:
    _weights(folder, "vae").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return "git lfs pull"


def _lost_shard(folder: Path) -> str:
    index = {"weight_map": {"a": "one-00001-of-00002.safetensors"}}
    _weights(folder, "unet").rename(folder / "gone")
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return "names 1 files, of which 1 are missing: one-00001-of-00002.safetensors"


def _dangling(folder: Path) -> str:
    _weights(folder, "unet").unlink()
    _weights(folder, "unet").symlink_to(folder / "blobs" / "gone")
    return "is a link to a file that is gone"


def _no_words(folder: Path) -> str:
    (folder / "tokenizer" / "merges.txt").unlink()
    return "no tokenizer: it has neither"


@pytest.mark.parametrize("harm", [_no_file, _cut_off, _lfs, _lost_shard, _dangling, _no_words])
def test_given_a_folder_that_is_not_whole_then_what_lacks_is_named(harm: Callable[[Path], str], folder: Path) -> None:
    with pytest.raises(UserError, match=re.escape(harm(folder))):
        inspect_base(folder)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/dev/null",))


def test_given_a_pickle_that_would_run_code_then_import_refuses_it(folder: Path, tmp_path: Path) -> None:
    _weights(folder, "unet").unlink()
    torch.save({"conv_in.weight": _Evil()}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="without running code of its own"):
        import_base(folder, tmp_path / "out")


CONFIG = """
name: weights
stages:
  - {{name: real, kind: preprocess, threads: 1, data: {{kind: phantom, num_images: 24, size: 64}}, size: 32}}
  - {{name: latents, kind: latents, threads: 1, inputs: {{dataset: real, base: "{base}"}}}}
  - &train
    name: words
    kind: train
    model: diffusion
    threads: 1
    inputs: {{latents: latents, base: "{base}"}}
    base_sha256: {sha256}
    train_unet: false
    steps: 2
    batch_size: 2
    checkpoint_every: 2
    learning_rate: 1.0e-4
    validation_images: 0
    preview: {{num_prompts: 1, denoising_steps: 1}}
  - <<: *train
    name: images
    inputs: {{latents: latents, base: words}}
    base_sha256: null
    train_unet: true
    train_text_encoder: false
  - name: synthetic
    kind: generate
    threads: 1
    inputs: {{model: images, like: real}}
    request: {{balanced: [No Finding, Effusion], num_images: 4}}
    denoising_steps: 2
    batch_size: 4
    shard_size: 4
"""
"""Two trainings, one after the other, on the latents of the base: as the ready configs of the study do it."""


def test_given_the_published_files_then_a_second_training_takes_the_latents_of_the_first_ones_base(
    published: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(base=published, sha256=files_sha256(published)))
    done = cxr("run", tmp_path / "config.yaml", "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "weights"
    trained = final_checkpoint(run / "images")
    assert read_json(run / "latents" / "latents.json")["vae"] == vae_sha256(published) == vae_sha256(trained)
    series = read_json(run / "synthetic" / "dataset.json")["about"]["series"][0]
    assert (series["model"], series["prediction"]) == (weights_sha256(trained), "epsilon")
    assert "predicts epsilon" in (run / "report.html").read_text()


def test_plan_and_doctor_say_what_a_base_predicts_and_refuse_one_that_is_not_filled(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(base=folder, sha256="null"))
    planned = cxr("plan", tmp_path / "config.yaml")
    assert f"{folder} predicts epsilon, 32 px" in planned.stdout, planned.stderr
    _rename(folder, "text_encoder", _without("final_layer_norm.bias"))
    for words in (("plan", tmp_path / "config.yaml"), ("doctor", "--base", folder)):
        refused = cxr(*words, cwd=tmp_path)
        assert refused.returncode in (1, 2)
        assert "1 are missing: final_layer_norm.bias" in refused.stdout + refused.stderr
    (tmp_path / "config.yaml").write_text(CONFIG.format(base=_weights(folder, "unet"), sha256="null"))
    refused = cxr("plan", tmp_path / "config.yaml")
    assert f"cxr model import {_weights(folder, 'unet')} OUT --as base" in refused.stderr


def test_given_a_digest_of_an_earlier_version_then_it_is_still_the_models(published: Path, tmp_path: Path) -> None:
    old = files_sha256(published)
    assert old != weights_sha256(published)
    assert has_weights(published, old)
    lock_base(inspect_base(published), old, tmp_path / "base.json")
    assert read_json(tmp_path / "base.json")["weights_sha256"] == weights_sha256(published)
    with pytest.raises(UserError, match=f"but base_sha256 is {'0' * 64}"):
        lock_base(inspect_base(published), "0" * 64, tmp_path / "base.json")


def test_given_latents_of_the_old_names_of_a_vae_then_its_later_copies_have_encoded_them(
    published: Path, folder: Path
) -> None:
    recorded = content_sha256(_weights(published, "vae"))
    _by_us(folder)
    assert has_vae(published, recorded)
    assert has_vae(folder, recorded)
    _rename(folder, "vae", lambda found: found | {"quant_conv.bias": found["quant_conv.bias"] + 1})
    assert not has_vae(folder, recorded)


def _sizes() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    text = {"vocab_size": 49408, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    for preset in (NANO, SD21_BASE):
        words = text | dict(preset.text_encoder)
        yield preset.name, {"unet": dict(preset.unet), "vae": dict(preset.vae), "text_encoder": words}
    sd15 = {"sample_size": 64, "cross_attention_dim": 768}
    yield "defaults", {"unet": sd15, "vae": dict(SD21_BASE.vae), "text_encoder": {}}
    small = {"mid_block_type": None, "layers_per_block": [1, 2], "transformer_layers_per_block": [1, 2]}
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}
    unet = {**NANO.unet, **small, **blocks, "block_out_channels": [16, 32], "attention_head_dim": 8}
    yield "without a middle", {"unet": unet, "vae": dict(NANO.vae) | {"use_quant_conv": False}, "text_encoder": {}}


@pytest.mark.parametrize(("name", "configs"), list(_sizes()), ids=[name for name, _ in _sizes()])
def test_given_a_config_then_the_tensors_told_without_torch_are_those_of_the_library(
    name: str, configs: dict[str, dict[str, Any]]
) -> None:
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel(**configs["unet"]),
            "vae": AutoencoderKL(**configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }
    for part in PARTS:
        told = expected(part, {**DEFAULTS[part], **configs[part]})
        assert told == {name: tuple(tensor.shape) for name, tensor in models[part].state_dict().items()}


def test_the_defaults_of_a_config_are_those_of_the_libraries() -> None:
    import inspect

    from diffusers import DDPMScheduler

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": DDPMScheduler}
    for part, kind in kinds.items():
        theirs = {name: each.default for name, each in inspect.signature(kind.__init__).parameters.items()}
        for name, value in DEFAULTS[part].items():
            assert value == (list(theirs[name]) if isinstance(theirs[name], tuple) else theirs[name]), (part, name)
    text = CLIPTextConfig()
    assert {name: getattr(text, name) for name in DEFAULTS["text_encoder"]} == DEFAULTS["text_encoder"]


def _adapter() -> dict[str, torch.Tensor]:
    """Random matrices for a layer of each kind, under diffusers' names."""
    torch.manual_seed(1)
    layers = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (32, 32),
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0": (32, 32),
        "unet.down_blocks.1.resnets.0.conv1": (32, 16),
    }
    layers |= {f"text_encoder.text_model.encoder.layers.0.self_attn.{each}_proj": (32, 32) for each in "qkv"}
    layers |= {"text_encoder.text_model.encoder.layers.0.self_attn.out_proj": (32, 32)}
    found = {}
    for name, (out, before) in layers.items():
        kernel = ((3, 3), (1, 1)) if "conv" in name else ((), ())
        found[f"{name}.lora_A.weight"] = torch.randn(4, before, *kernel[0])
        found[f"{name}.lora_B.weight"] = torch.randn(out, 4, *kernel[1])
    return found


def _kohya(found: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in found.items():
        layer, side = name.split(".lora_")
        part, _, rest = layer.partition(".")
        start = f"{'lora_te' if part == 'text_encoder' else 'lora_unet'}_{rest.replace('.', '_')}"
        named[f"{start}.lora_{'down' if side.startswith('A') else 'up'}.weight"] = tensor
        named[f"{start}.alpha"] = torch.tensor(alpha)
    return named


def test_given_an_adapter_when_it_is_imported_then_the_base_draws_as_the_library_does_with_it(
    published: Path, tmp_path: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(published, feature_extractor=None, safety_checker=None)
    found = _adapter()
    save_file(found, tmp_path / "diffusers.safetensors")
    save_file(_kohya(found, alpha=4.0), tmp_path / "kohya.safetensors")
    save_file(_kohya(found, alpha=2.0), tmp_path / "half.safetensors")
    pipeline.load_lora_weights(tmp_path / "kohya.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for name, scale in (("diffusers", 1.0), ("kohya", 1.0), ("half", 2.0)):
        assert import_lora(tmp_path / f"{name}.safetensors", tmp_path / name, published, scale) == 7
        merged = stable_diffusion.load(tmp_path / name)
        for part in ("unet", "text_encoder"):
            wanted = getattr(pipeline, part).state_dict()
            for key, tensor in getattr(merged, part).state_dict().items():
                assert torch.allclose(tensor, wanted[key], rtol=0, atol=1e-5), (name, key)
    assert weights_sha256(tmp_path / "kohya") != weights_sha256(published)


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def _peft(folder: Path, pair: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    save_file({f"base_model.model.{LAYER}.{name}": t for name, t in pair.items()}, folder / "adapter_model.safetensors")
    return folder


def _noted(folder: Path, pair: dict[str, torch.Tensor]) -> Path:
    path, notes = folder.with_suffix(".safetensors"), {"unet.r": 4, "unet.lora_alpha": 4.0, "unet.use_rslora": True}
    named = {f"unet.{LAYER}.{name}": tensor for name, tensor in pair.items()}
    save_file(named, path, metadata={"lora_adapter_metadata": json.dumps(notes)})
    return path


def _of_processors(folder: Path, pair: dict[str, torch.Tensor]) -> Path:
    path, block = folder.with_suffix(".safetensors"), LAYER.removesuffix(".to_q")
    sides = {"lora_A.weight": "down.weight", "lora_B.weight": "up.weight"}
    save_file({f"{block}.processor.to_q_lora.{sides[name]}": 2**0.5 * t for name, t in pair.items()}, path)
    return path


@pytest.mark.parametrize("form", [_peft, _noted, _of_processors])
def test_given_an_adapter_in_another_form_then_its_strength_is_alpha_over_the_rank(
    form: Callable[[Path, dict[str, torch.Tensor]], Path], published: Path, tmp_path: Path
) -> None:
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    source = form(tmp_path / "adapter", {"lora_A.weight": down, "lora_B.weight": up})
    assert import_lora(source, tmp_path / "out", published) == 1
    before, after = (load_file(_weights(folder, "unet"))[f"{LAYER}.weight"] for folder in (published, tmp_path / "out"))
    assert torch.allclose(after - before, 2 * up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lora_unet_down_blocks_7_attentions_0_proj_in.lora_down.weight", "1 layers have one matrix of two"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "1 tensors are of no plain LoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "dora_scale"),
    ],
)
def test_given_an_adapter_that_has_no_place_then_it_is_refused_by_its_names(
    name: str, said: str, published: Path, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(4, 4)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=re.escape(said)):
        import_lora(tmp_path / "odd.safetensors", tmp_path / "out", published)


def test_given_an_adapter_of_another_base_then_its_layers_are_named(published: Path, tmp_path: Path) -> None:
    layer = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    pair = {f"{layer}.lora_down.weight": torch.zeros(4, 32), f"{layer}.lora_up.weight": torch.zeros(32, 4)}
    save_file(pair, tmp_path / "xl.safetensors")
    with pytest.raises(UserError, match=f"1 layers are not in the base: {layer}"):
        import_lora(tmp_path / "xl.safetensors", tmp_path / "out", published)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Edema", "nan"], "'nan' is no name"),
        (["Edema", ""], "'' is no name"),
        (["Edema|Mass"], "is no name"),
        (["Edema", "Mass", "edema"], "edema is there twice"),
        (["Pleural_Thickening", "pleural thickening"], "is there twice"),
        (["No Finding", "Edema"], "'No Finding' is reserved"),
        (["no finding"], "reserved"),
    ],
)
def test_given_outputs_that_cannot_be_findings_then_the_judge_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        check_findings(names)


def test_given_an_extractor_with_a_layer_too_many_or_numbers_that_are_none_then_it_is_refused(tmp_path: Path) -> None:
    path = small_vit(tmp_path / "vit") / "model.safetensors"
    found = load_file(path)
    layer = next(name for name in found if "layernorm" in name.lower())
    save_file(found | {"classifier.weight": torch.zeros(2, 8)}, path, metadata={"format": "pt"})
    open_extractor(path.parent)
    save_file(found | {"encoder.layer.7.output.dense.bias": torch.zeros(8)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 of the weights are of something else .*layers?\.7\."):
        open_extractor(path.parent)
    save_file(found | {layer: found[layer] * np.nan}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        open_extractor(path.parent)


def test_given_clips_own_tokenizer_in_either_form_then_it_is_read_the_same(published: Path, tmp_path: Path) -> None:
    from cxr_core.models.configs import read_tokenizer

    CLIPTokenizer.from_pretrained(published / "tokenizer").save_pretrained(tmp_path)
    assert not (tmp_path / "merges.txt").exists()
    assert read_tokenizer(tmp_path) == read_tokenizer(published / "tokenizer")

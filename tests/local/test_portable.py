"""What `cxr model export` writes of a Stable Diffusion, as far as today's libraries can tell.

`make proof TARGET=old_tools` opens it with those of a year ago.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from cxr_core.errors import UserError
from cxr_core.export.model import export_model
from cxr_core.models import stable_diffusion
from cxr_core.models.lora import add_adapter, merged_pipeline, save_adapter
from cxr_core.models.lora_files import DIFFUSERS, KOHYA, read_diffusers, write_kohya
from cxr_core.runs.files import read_json
from tests.local.test_lora import prediction

PROMPT = "frontal chest x-ray, PA view, effusion"
TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "time_emb_proj"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}


@pytest.fixture(scope="module")
def exported(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    export_model(nano_base, out, "float32")
    return out


@pytest.fixture(scope="module")
def with_adapters(nano_base: Path) -> Any:
    """A pipeline with random adapters of rank 4 and alpha 8 on each kind of layer."""
    pipeline = stable_diffusion.load(nano_base)
    for part, targets in TARGETS.items():
        getattr(pipeline, part).requires_grad_(False)
        add_adapter(getattr(pipeline, part), rank=4, alpha=8.0, targets=targets)
    source = torch.Generator().manual_seed(0)
    for part in TARGETS:
        for name, parameter in getattr(pipeline, part).named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=source)
    return pipeline


def test_an_exported_tokenizer_and_text_encoder_are_as_older_versions_of_transformers_have_them(
    exported: Path, nano_base: Path
) -> None:
    whole = read_json(nano_base / "tokenizer" / "tokenizer.json")["model"]
    assert read_json(exported / "tokenizer" / "vocab.json") == whole["vocab"]
    first, *merges = (exported / "tokenizer" / "merges.txt").read_text().splitlines()
    assert first.startswith("#version")
    assert merges == [pair if isinstance(pair, str) else " ".join(pair) for pair in whole["merges"]]
    assert read_json(exported / "tokenizer" / "special_tokens_map.json")["pad_token"] == "<|endoftext|>"
    tensors = load_file(exported / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in tensors)
    before = stable_diffusion.load(nano_base).text_encoder.state_dict()
    assert len(tensors) == len(before)


def test_an_exported_folder_is_the_same_model_for_todays_libraries(exported: Path, nano_base: Path) -> None:
    made, before = (stable_diffusion.load(folder) for folder in (exported, nano_base))
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = (getattr(one, part).state_dict() for one in (made, before))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    ids = [stable_diffusion.tokenize(one.tokenizer, [PROMPT, "", "Müller 42%"]) for one in (made, before)]
    assert torch.equal(*ids)
    again = exported.parent / "again"
    assert (
        export_model(exported, again, "float32")["weights_sha256"]
        == read_json(exported / "model.json")["weights_sha256"]
    )


@pytest.mark.parametrize("name", ["dpmsolver++", "ddim"])
def test_given_leftovers_in_the_models_file_the_exported_solvers_draw_what_we_draw(
    nano_base: Path, tmp_path: Path, name: str
) -> None:
    from cxr_core.models.noise import Philox
    from cxr_core.models.sampler import decode, encode_prompts, load_model, sample

    torch.set_num_threads(1)
    pipeline = stable_diffusion.load(nano_base)
    left = {"use_karras_sigmas": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}
    pipeline.register_modules(scheduler=diffusers.PNDMScheduler.from_config(dict(pipeline.scheduler.config) | left))
    stable_diffusion.save(pipeline, tmp_path / "base")
    export_model(tmp_path / "base", tmp_path / "out", "float32")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    if name == "dpmsolver++":
        solver = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path / "out", subfolder="dpmsolver")
        theirs.scheduler = solver
    theirs.set_progress_bar_config(disable=True)
    noise = Philox([7], (4, 8, 8)).draw()
    image = theirs(PROMPT, num_inference_steps=5, guidance_scale=4.0, latents=noise, output_type="np").images[0]
    model = load_model(tmp_path / "base", "float32")
    texts = encode_prompts(model, ["", PROMPT])
    ours = decode(model, sample(model, texts[PROMPT], texts[""], [7], scheduler=name, steps=5, guidance=4.0))
    assert np.abs(ours[0] - (image * 255).mean(axis=-1)).max() <= 1


def test_given_a_lora_both_forms_read_without_notes_are_the_merged_model(
    with_adapters: Any, nano_base: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    wanted = prediction(merged_pipeline(with_adapters))
    save_adapter(with_adapters, tmp_path)
    write_kohya(read_diffusers(tmp_path), tmp_path)
    for name in (DIFFUSERS, KOHYA):
        with safe_open(tmp_path / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        read = stable_diffusion.load(nano_base)
        before = prediction(read)
        read.load_lora_weights(load_file(tmp_path / name))
        assert torch.allclose(prediction(read), wanted, atol=1e-5), name
        assert (wanted - before).abs().max() > 1e-2
    down = [name for name in load_file(tmp_path / KOHYA) if name.endswith(".lora_down.weight")]
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in down
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight" in down
    kohya = load_file(tmp_path / KOHYA)
    assert all(kohya[name.replace("lora_down.weight", "alpha")].item() == len(kohya[name]) == 4 for name in down)


def test_given_a_lora_of_an_older_version_whose_alpha_is_a_note_it_is_folded_in(
    with_adapters: Any, tmp_path: Path
) -> None:
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for part in TARGETS:
        module = getattr(with_adapters, part)
        state = get_peft_model_state_dict(module, adapter_name="default", save_embedding_layers=False)
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(state)
        layers[f"{part}_lora_adapter_metadata"] = {"lora_alpha": 8.0, "r": 4}
    StableDiffusionPipeline.save_lora_weights(str(tmp_path / "old"), **layers)
    save_adapter(with_adapters, tmp_path / "new")
    old, new = (read_diffusers(tmp_path / name) for name in ("old", "new"))
    strip = "text_model."
    old = {(part, layer.removeprefix(strip)): halves for (part, layer), halves in old.items()}
    new = {(part, layer.removeprefix(strip)): halves for (part, layer), halves in new.items()}
    assert old.keys() == new.keys()
    assert all(torch.equal(a, b) for key in new for a, b in zip(old[key], new[key], strict=True))


def test_given_a_lora_that_is_none_of_ours_its_file_is_named(tmp_path: Path) -> None:
    (tmp_path / DIFFUSERS).write_bytes(json.dumps({}).encode())
    with pytest.raises(UserError, match="is no LoRA of ours") as error:
        read_diffusers(tmp_path)
    assert error.value.where == str(tmp_path / DIFFUSERS)

"""Files of weights that are nearly right: read as they are meant, or refused with what is wrong and what helps."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxr_core.errors import UserError
from cxr_core.export.model import export_model
from cxr_core.models import stable_diffusion
from cxr_core.models.base import inspect_base
from cxr_core.models.classifier import build
from cxr_core.models.importing.base import import_base
from cxr_core.models.importing.judge import import_judge
from cxr_core.models.importing.lora import import_lora
from cxr_core.models.importing.lora_strength import read_notes, strength
from cxr_core.models.parts import part_tensors
from cxr_core.models.strict import read_tensors
from tests.layouts import published_sd21

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, clip_tokenizer: Path) -> Path:
    return published_sd21(tmp_path_factory.mktemp("published") / "sd21", clip_tokenizer)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to harm, with the safetensors of single precision alone."""
    return shutil.copytree(published, tmp_path / "base", ignore=shutil.ignore_patterns("*.bin", "*.fp16.*"))


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _too_long(folder: Path) -> str:
    (folder / UNET).write_bytes((folder / UNET).read_bytes() + bytes(60))
    return "has more than belongs to it: "


def _short_tensor(folder: Path) -> str:
    content = (folder / UNET).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["conv_in.bias"]["data_offsets"][1] -= 4
    text = json.dumps(header).encode()
    (folder / UNET).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return r"conv_in\.bias has 60 bytes for F32 \(16,\)"


def _in_shards(folder: Path) -> None:
    """Beside the whole file, with its index."""
    tensors, index = load_file(folder / UNET), {}
    for i in range(2):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors"
        own = dict(list(tensors.items())[i::2])
        save_file(own, folder / "unet" / name)
        index |= dict.fromkeys(own, name)
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": index}))


def _twice(folder: Path) -> str:
    _in_shards(folder)
    return "there twice: diffusion_pytorch_model.safetensors and the shards of "


def _no_index(folder: Path) -> str:
    _in_shards(folder)
    for path in (folder / UNET, folder / f"{UNET}.index.json"):
        path.unlink()
    return r"-00001-of-00002\.safetensors, .* no diffusion_pytorch_model\.safetensors\.index\.json"


def _few_betas(folder: Path) -> str:
    _change(folder / "scheduler" / "scheduler_config.json", trained_betas=[0.1] * 5)
    return "5 trained_betas for 1000 timesteps"


def _odd_heads(folder: Path) -> str:
    _change(folder / "text_encoder" / "config.json", num_attention_heads=3)
    return "no multiple of num_attention_heads, 3"


def _odd_ids(folder: Path) -> str:
    _change(folder / "tokenizer" / "vocab.json", strange="7")
    return "token 'strange' has the id '7'"


@pytest.mark.parametrize("harm", [_too_long, _short_tensor, _twice, _no_index, _few_betas, _odd_heads, _odd_ids])
def test_given_files_that_the_libraries_stumble_over_or_read_differently_then_the_plan_says_so(
    harm: Callable[[Path], str], folder: Path
) -> None:
    with pytest.raises(UserError, match=harm(folder)):
        inspect_base(folder)


def test_given_shards_that_are_left_over_beside_a_whole_file_then_it_is_opened(folder: Path) -> None:
    _in_shards(folder)
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    assert inspect_base(folder).tensors["unet"]["conv_in.bias"].file == folder / UNET


@pytest.mark.parametrize("named", [["diffusers", "DPMSolverSDEScheduler"], ["mine", "Unknown"], [None, None], None])
def test_given_a_scheduler_whose_class_is_not_here_then_its_schedule_is_enough(named: Any, folder: Path) -> None:
    _change(folder / "model_index.json", scheduler=named)
    assert stable_diffusion.load(folder).scheduler.config["beta_schedule"] == "scaled_linear"


def _pointer(path: Path) -> str:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return "git lfs pull"


def _cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-1000])
    return "damaged or cut off"


def _saved(content: Any, said: str) -> Callable[[Path], str]:
    def write(path: Path) -> str:
        torch.save(content, path)
        return said

    return write


def _prefixed(path: Path) -> str:
    found = torch.load(path)
    torch.save(found | {"module.conv_in.bias": found["conv_in.bias"] + 1}, path)
    return "conv_in.bias is there twice"


def _quantised(path: Path) -> str:
    torch.save({name: (100 * tensor).to(torch.int8) for name, tensor in torch.load(path).items()}, path)
    return "tensors are int8, .* quantised"


@pytest.mark.parametrize(
    "harm",
    [
        _pointer,
        _cut,
        _prefixed,
        _quantised,
        _saved([torch.ones(2)], "holds no tensors by name"),
        _saved(torch.ones(2), "holds no tensors by name"),
        _saved({0: torch.ones(2)}, "holds no tensors by name"),
        _saved({"model": {"a": torch.ones(2)}, "epoch": 1}, r"by name \(it has model, epoch\)"),
    ],
)
def test_given_a_pickle_that_holds_no_weights_then_import_says_what_it_is(
    harm: Callable[[Path], str], folder: Path, tmp_path: Path
) -> None:
    path = folder / UNET.with_suffix(".bin")
    torch.save(load_file(folder / UNET), path)
    (folder / UNET).unlink()
    with pytest.raises(UserError, match=harm(path)):
        import_base(folder, tmp_path / "out")


def test_given_a_lost_shard_then_import_does_not_take_the_pickle_beside_it(folder: Path, tmp_path: Path) -> None:
    _in_shards(folder)
    torch.save(load_file(folder / UNET), folder / UNET.with_suffix(".bin"))
    (folder / UNET).unlink()
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="names 2 files, of which 1 are missing"):
        import_base(folder, tmp_path / "out")


def test_given_a_judge_in_whole_numbers_then_it_is_refused(tmp_path: Path) -> None:
    found = build("small", 32, ("Edema",), seed=0).state_dict()
    save_file({name: tensor.to(torch.int8) for name, tensor in found.items()}, tmp_path / "judge.safetensors")
    with pytest.raises(UserError, match="quantised"):
        import_judge(tmp_path / "judge.safetensors", tmp_path / "out", "small", ["Edema"], 32)


LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "encoder.layers.0.self_attn.q_proj.weight"


def _adapter(folder: Path, layer: str = f"base_model.model.{LAYER}", **notes: Any) -> Path:
    """As peft saves it: rank 4, alpha 8."""
    folder.mkdir()
    torch.manual_seed(0)
    pair = {f"{layer}.lora_A.weight": torch.randn(4, 32), f"{layer}.lora_B.weight": torch.randn(32, 4)}
    save_file(pair, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, **notes}))
    return folder


@pytest.mark.parametrize(
    ("pattern", "alpha"), [(r"down_blocks\..*to_q", 1), (f"^{LAYER}", 1), ("to_q", 1), ("o_q", 8), ("_q", 8)]
)
def test_given_a_pattern_of_alphas_then_it_is_read_as_peft_reads_it(pattern: str, alpha: int, tmp_path: Path) -> None:
    notes = read_notes(_adapter(tmp_path / "adapter", alpha_pattern={pattern: 1}) / "adapter_model.safetensors")
    assert strength(f"base_model.model.{LAYER}", 4, None, notes) == alpha / 4


def test_given_an_adapter_that_changes_the_base_too_or_a_layer_twice_then_it_is_refused(
    published: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="'pissa_niter_4', which changes the weights of the base"):
        import_lora(_adapter(tmp_path / "a", init_lora_weights="pissa_niter_4"), tmp_path / "out", published)
    path = _adapter(tmp_path / "b") / "adapter_model.safetensors"
    found = load_file(path)
    save_file(found | {name.replace("base_model.model", "unet"): 2 * t for name, t in found.items()}, path)
    with pytest.raises(UserError, match=rf"changes the layer of .*{LAYER} twice"):
        import_lora(path, tmp_path / "out", published)


def test_given_an_adapter_of_no_tensors_then_the_base_is_not_passed_off_as_changed(
    published: Path, tmp_path: Path
) -> None:
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="holds no tensors"):
        import_lora(tmp_path / "none.safetensors", tmp_path / "out", published)


def test_given_notes_that_are_damaged_then_the_file_is_named(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = load_file(_adapter(tmp_path / "a") / "adapter_model.safetensors")
    save_file(tensors, path, metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(UserError, match=r"lora\.safetensors: its notes lora_adapter_metadata are damaged"):
        import_lora(path, tmp_path / "out", published)


def test_given_a_text_encoders_adapter_under_the_first_names_or_a_pickle_then_it_is_added(
    published: Path, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    down, up, layer = torch.randn(4, 32), torch.randn(32, 4), "text_encoder.text_model.encoder.layers.0.self_attn"
    named = {f"{layer}.to_q_lora.down.weight": down, f"{layer}.to_q_lora.up.weight": up}
    torch.save(named, tmp_path / "old" / "adapter_model.bin")
    import_lora(tmp_path / "old", tmp_path / "out", published)
    before, after = (part_tensors(folder, "text_encoder")[TEXT] for folder in (published, tmp_path / "out"))
    added = read_tensors({"": after})[""] - read_tensors({"": before})[""]
    assert torch.allclose(added, up @ down, atol=1e-5)


def test_given_numbers_beyond_half_precision_then_export_says_to_keep_all_digits(folder: Path, tmp_path: Path) -> None:
    found = load_file(folder / UNET)
    save_file(found | {"conv_in.bias": torch.full_like(found["conv_in.bias"], 1e5)}, folder / UNET)
    with pytest.raises(UserError, match=r"float16 cannot hold: conv_in\.bias\n.*--float32"):
        export_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_model(folder, tmp_path / "out", "float32")

"""Nano weights in the layouts in which people have Stable Diffusion: small enough for tests, named as the real ones."""

import json
import re
from pathlib import Path
from typing import Any

NANO_VOCAB = 49408

_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.8.0",
    "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.8.0",
    "act_fn": "silu",
    "attention_head_dim": [1, 2],
    "block_out_channels": [16, 32],
    "center_input_sample": False,
    "cross_attention_dim": 32,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 8,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.8.0",
    "act_fn": "silu",
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 768,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
_TEXT = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_size": 32,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "projection_dim": 32,
    "torch_dtype": "float32",
    "transformers_version": "4.25.0.dev0",
    "vocab_size": NANO_VOCAB,
}


def _token(text: str) -> dict[str, Any]:
    return {
        "__type": "AddedToken",
        "content": text,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }


_START, _END = "<|startoftext|>", "<|endoftext|>"
_TOKENIZER = {
    "add_prefix_space": False,
    "bos_token": _token(_START),
    "do_lower_case": True,
    "eos_token": _token(_END),
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": _END,
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": _token(_END),
}
_SPECIAL = {"bos_token": _token(_START), "eos_token": _token(_END), "pad_token": "!", "unk_token": _token(_END)}

_OF_THE_LIBRARY = ("torch_dtype", "architectures", "transformers_version", "model_type")
_OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def published_sd21(folder: Path, tokenizer: Path, *, seed: int = 0) -> Path:
    """Nano weights with the files of Stable Diffusion 2.1-base as it is published.

    The VAE has the old names of attention, the text encoder its prefix and places of tokens; .bin and fp16 lie beside,
    and model_index.json names a feature extractor that is not there. `tokenizer` holds CLIP's vocab.json, merges.txt.
    """
    for name, value in _configs().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n")
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).write_bytes((tokenizer / name).read_bytes())
    for part, tensors in published_tensors(seed).items():
        _write(folder / part, tensors)
    return folder


def published_tensors(seed: int = 0) -> dict[str, dict[str, Any]]:
    """The weights of each part, by the names of its files."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    vae, unet = AutoencoderKL(**_plain(_VAE)), UNet2DConditionModel(**_plain(_UNET))
    text = CLIPTextModel(CLIPTextConfig(**{name: _TEXT[name] for name in _TEXT if name not in _OF_THE_LIBRARY}))
    prefixed = {f"text_model.{name}": tensor for name, tensor in text.state_dict().items()}
    places = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {
        "unet": dict(unet.state_dict()),
        "vae": {old_name(name): tensor for name, tensor in vae.state_dict().items()},
        "text_encoder": prefixed | places,
    }


def old_name(name: str) -> str:
    for new, old in _OLD_NAMES.items():
        name = name.replace(new, old)
    return name


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _configs() -> dict[str, Any]:
    return {
        "model_index.json": _INDEX,
        "scheduler/scheduler_config.json": _SCHEDULER,
        "unet/config.json": _UNET,
        "vae/config.json": _VAE,
        "text_encoder/config.json": _TEXT,
        "tokenizer/tokenizer_config.json": _TOKENIZER,
        "tokenizer/special_tokens_map.json": _SPECIAL,
    }


def _write(part: Path, tensors: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    stem, pickle = ("model", "pytorch_model") if part.name == "text_encoder" else ("diffusion_pytorch_model",) * 2
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for variant, values in (("", tensors), (".fp16", half)):
        save_file(values, part / f"{stem}{variant}.safetensors", metadata={"format": "pt"})
        torch.save(values, part / f"{pickle}{variant}.bin")


def original_file(path: Path, seed: int = 0) -> Path:
    """The same weights in one file, under the names of the original code, with what that writes beside them."""
    import torch
    from safetensors.torch import save_file

    parts = published_tensors(seed)
    found = {f"model.diffusion_model.{_original_unet(name)}": tensor for name, tensor in parts["unet"].items()}
    for name, tensor in parts["vae"].items():
        convolves = ".attentions." in name and tensor.dim() == 2
        found[f"first_stage_model.{_original_vae(name)}"] = tensor[..., None, None] if convolves else tensor
    text = {name.removeprefix("text_model."): tensor for name, tensor in parts["text_encoder"].items()}
    found |= {f"cond_stage_model.model.{name}": tensor for name, tensor in _open_clip(text).items()}
    found |= {"betas": torch.zeros(1000), "alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(())}
    save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, path)
    return path


_UNET_NAMES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _original_unet(name: str) -> str:
    ours = max((each for each in _UNET_NAMES if name.startswith(f"{each}.")), key=len)
    rest = name.removeprefix(f"{ours}.")
    if "resnets" in ours:
        layer, _, kind = rest.partition(".")
        rest = f"{_UNET_LAYERS[layer]}.{kind}"
    return f"{_UNET_NAMES[ours]}.{rest}"


def _original_vae(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    last = len(_VAE["block_out_channels"]) - 1
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in (
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.query", "mid.attn_1.q"),
        ("mid_block.attentions.0.key", "mid.attn_1.k"),
        ("mid_block.attentions.0.value", "mid.attn_1.v"),
        ("mid_block.attentions.0.proj_attn", "mid.attn_1.proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ):
        name = name.replace(ours, theirs)
    return name


_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _open_clip(text: dict[str, Any]) -> dict[str, Any]:
    """With the last layer, which Stable Diffusion 2 does not use, and what compares texts with images."""
    import torch

    layers = _TEXT["num_hidden_layers"]
    found = {
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "logit_scale": torch.ones(()),
        "text_projection": torch.ones(32, 32),
    }
    found |= {f"ln_final.{kind}": text[f"final_layer_norm.{kind}"] for kind in ("weight", "bias")}
    for i in range(layers + 1):
        of, to = f"encoder.layers.{min(i, layers - 1)}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            joined = [text[f"{of}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            found[f"{to}.attn.in_proj_{kind}"] = torch.cat(joined)
            found |= {f"{to}.{theirs}.{kind}": text[f"{of}.{ours}.{kind}"] for ours, theirs in _OPEN_CLIP.items()}
    return found

"""The configs of a diffusers folder's parts, with the libraries' defaults where a file leaves an entry out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.models.parts import PARTS
from cxr_core.runs.files import canonical_json, read_json, sha256_text

Config = dict[str, Any]

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "sample_size": None,
        "in_channels": 4,
        "out_channels": 4,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "only_cross_attention": False,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "encoder_hid_dim": None,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "dual_cross_attention": False,
        "use_linear_projection": False,
        "upcast_attention": False,
        "class_embed_type": None,
        "addition_embed_type": None,
        "num_class_embeds": None,
        "resnet_time_scale_shift": "default",
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "time_cond_proj_dim": None,
    },
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
        "block_out_channels": [64],
        "layers_per_block": 1,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
    },
}
"""Of each part, the entries that decide which tensors it has and what is computed with them."""

_ANY_NUMBER_A_LEVEL = ("attention_head_dim", "layers_per_block", "cross_attention_dim", "transformer_layers_per_block")


def read_config(folder: Path, part: str) -> Config:
    """A part's config with `DEFAULTS`. Raises UserError if its file is missing or damaged."""
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    return {**DEFAULTS[part], **read_object(path)}


def read_object(path: Path) -> Config:
    """A JSON file that holds names and values. Raises UserError if it is missing or damaged."""
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except (OSError, ValueError) as error:
        hint = "give a complete Stable Diffusion folder"
        raise UserError(f"cannot be read ({error})", where=str(path), hint=hint) from error
    return value


def settings_sha256(folder: Path) -> str:
    """sha256 over what the configs say of the computation, and over the tokenizer's words: not how they are spelled."""
    parts = {part: _deciding(part, read_config(folder, part)) for part in (*PARTS, "scheduler")}
    return sha256_text(canonical_json(parts | {"tokenizer": read_tokenizer(folder / "tokenizer")}))


def _deciding(part: str, config: Config) -> Config:
    found = {name: config[name] for name in DEFAULTS[part]}
    for name in _ANY_NUMBER_A_LEVEL:
        value = found.get(name)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            found[name] = value[0]
    return found


def read_tokenizer(folder: Path) -> Config:
    """`vocab` (token -> id), `merges` (pairs in their order) and `pad_token` of a CLIP tokenizer's folder.

    Raises UserError if it has neither tokenizer.json nor vocab.json and merges.txt.
    """
    whole = folder / "tokenizer.json"
    if whole.is_file():
        model = read_object(whole).get("model") or {}
        vocab, merges = model.get("vocab"), model.get("merges")
        if not isinstance(vocab, dict) or not isinstance(merges, list):
            raise UserError("holds no BPE model", where=str(whole), hint="take the tokenizer folder of the model")
        pairs = [each.split(" ") if isinstance(each, str) else each for each in merges]
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocab = read_object(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    else:
        what = "no tokenizer: it has neither tokenizer.json nor vocab.json and merges.txt"
        raise UserError(what, where=str(folder), hint="copy the model's tokenizer folder too")
    if odd := [token for token, number in vocab.items() if type(number) is not int]:
        what = f"token {odd[0]!r} has the id {vocab[odd[0]]!r}, which is no whole number"
        raise UserError(what, where=str(folder), hint="copy the model's tokenizer folder again")
    return {"vocab": vocab, "merges": pairs, "pad_token": _pad_token(folder)}


def _pad_token(folder: Path) -> str:
    """What fills a text up: the special tokens' own file counts before the config."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        found = read_object(folder / name).get("pad_token") if (folder / name).is_file() else None
        if found is not None:
            return str(found["content"] if isinstance(found, dict) else found)
    return "<|endoftext|>"

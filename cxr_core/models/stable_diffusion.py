"""Stable Diffusion as a diffusers folder: built from a preset with random weights, opened, saved."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from cxr_core.data.prompts import MAX_TOKENS
from cxr_core.data.words import prompt_words
from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.models.base import Base, inspect_base, misfit
from cxr_core.models.fit import differences
from cxr_core.models.initial import seeded
from cxr_core.models.noise_schedule import read_schedule
from cxr_core.models.parts import PARTS, Part
from cxr_core.models.presets import Preset
from cxr_core.models.solver_options import solver_options
from cxr_core.models.strict import read_tensors
from cxr_core.models.tokenizer import train_bpe
from cxr_core.runs.files import read_json

log = room_log(__name__)

_START_LOG_VARIANCE = -6.0

_ORIGIN = {"_name_or_path", "is_local", "local_files_only"}
"""What the libraries note in configs about where a part was loaded from."""


def build(preset: Preset, seed: int) -> Any:
    """A pipeline of a preset's size with random weights that are a function of (preset, seed), in float32.

    A StableDiffusionPipeline without a safety checker, which was made for photographs.
    """
    tokenizer = make_tokenizer()
    with seeded(seed):
        return StableDiffusionPipeline(
            vae=_start_vae(AutoencoderKL(**preset.vae)),
            text_encoder=CLIPTextModel(_text_config(preset, tokenizer)),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(**preset.unet),
            scheduler=DDIMScheduler(**preset.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def make_tokenizer() -> CLIPTokenizer:
    """The tokenizer that knows the words of our prompts."""
    bpe = train_bpe(prompt_words())
    return CLIPTokenizer(vocab=bpe.vocab, merges=bpe.merges, model_max_length=MAX_TOKENS)  # type: ignore[arg-type]


def load(folder: Path) -> Any:
    """Open a diffusers folder in float32, without network. Raises UserError as `inspect_base`, or if a file is damaged.

    Every tensor of every part is filled, by its own file alone, and none is left over: what the libraries open with a
    warning, or fill at random, is refused. A safety checker, feature extractor or image encoder is not opened.
    """
    base = inspect_base(folder)
    log.debug("opening the Stable Diffusion folder %s", folder)
    try:
        with _quiet():
            parts = {part: _opened(base, part) for part in PARTS}
            return StableDiffusionPipeline(
                **parts,
                tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
                scheduler=_scheduler(folder),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"cannot be opened as a Stable Diffusion pipeline ({error})",
            where=str(folder),
            hint="give a complete folder: model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/",
        ) from error


def empty_part(folder: Path, part: Part) -> Any:
    """A part of a folder as its config describes it, in float32, whose weights are not there yet."""
    with init_empty_weights():
        if part == "text_encoder":
            config = CLIPTextConfig.from_pretrained(str(folder / part), local_files_only=True)
            config.dtype = torch.float32
            return CLIPTextModel(config)
        kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
        # A version before 0.9 would make the pipeline take any UNet for one of 512 px.
        entries = kind.load_config(folder / part).items()
        return kind.from_config({name: value for name, value in entries if name != _VERSION})


_VERSION = "_diffusers_version"


def fill(model: Any, tensors: Mapping[str, torch.Tensor], folder: Path, part: Part) -> Any:
    """Give an empty part its weights. Raises UserError naming all that is missing, left over or of another shape."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if wrong := list(differences(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()})):
        raise misfit(folder, part, wrong)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def _opened(base: Base, part: Part) -> Any:
    return fill(empty_part(base.folder, part), read_tensors(base.tensors[part]), base.folder, part)


def _scheduler(folder: Path) -> Any:
    """That of the folder, or DDIM where its class needs a library that is not there: only its schedule is used.

    Raises UserError if what is named is another thing of diffusers, which could open more than a schedule.
    """
    named = read_json(folder / "model_index.json").get("scheduler")
    kind = getattr(diffusers, str(named[1]), None) if isinstance(named, list) and len(named) == 2 else None
    if kind is None or hasattr(kind, "_backends"):  # what diffusers has in place of a class that cannot be made here
        return DDIMScheduler(**solver_options("ddim", read_schedule(folder), steps=1))
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        hint = 'write the class of the schedule, e.g. ["diffusers", "DDIMScheduler"]'
        where = f"{folder / 'model_index.json'}, scheduler"
        raise UserError(f"{str(named[1])[:80]!r} is no scheduler of diffusers", where=where, hint=hint)
    return kind.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True)


def save(pipeline: Any, folder: Path) -> None:
    """Write a diffusers folder: equal weights give equal bytes, wherever they were once loaded from."""
    with _quiet():
        pipeline.save_pretrained(str(folder), safe_serialization=True)
    for path in (*folder.glob("*.json"), *folder.glob("*/config.json"), *folder.glob("*/tokenizer_config.json")):
        value = {name: entry for name, entry in read_json(path).items() if name not in _ORIGIN}
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Token ids int64 (num_prompts, tokens), padded and cut as the diffusers pipeline does it."""
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    return tokenizer(prompts, return_tensors="pt", **options).input_ids


def _start_vae(vae: Any) -> Any:
    """Start as a plain path: residual branches add nothing (Goyal et al. 2017, arXiv 1706.02677), latents hardly vary.

    On a CPU it learns about twice as fast so: a fresh VAE's latents have unit noise, under which all looks alike.
    """
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if ".conv2." in name:
                parameter.zero_()
        spread = slice(vae.config["latent_channels"], None)
        vae.quant_conv.weight[spread] = 0
        vae.quant_conv.bias[spread] = _START_LOG_VARIANCE
    return vae


def _text_config(preset: Preset, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(**{"vocab_size": len(tokenizer), **ids, **preset.text_encoder})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars that the libraries draw per file: they would tear ours apart."""
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
    yield

"""A diffusers folder that versions of transformers and diffusers of a year ago open too, and draw the same images with.

They look for a tokenizer's vocab.json and merges.txt, and for a text encoder's tensors by the names that all published
Stable Diffusions have. Today's versions read these as well.
"""

from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file

from cxr_core.models import stable_diffusion
from cxr_core.models.noise_schedule import schedule_of
from cxr_core.models.solver_options import solver_options
from cxr_core.runs.files import read_json, write_json

SOLVER = "dpmsolver"
"""Folder of the solver that a generate stage draws with by default; `scheduler/`, which pipelines open, is DDIM."""

_PREFIX = "text_model."


def save_portable(pipeline: Any, folder: Path) -> None:
    """Write a StableDiffusionPipeline into `folder`, in the number format that it has.

    Its scheduler becomes DDIM. Both solvers have all options that we draw with, and nothing else that the model's own
    file said of drawing.
    """
    schedule = schedule_of(pipeline.scheduler.config)
    pipeline.register_modules(scheduler=DDIMScheduler(**solver_options("ddim", schedule, steps=1)))
    stable_diffusion.save(pipeline, folder)
    solver: Any = DPMSolverMultistepScheduler(**solver_options("dpmsolver++", schedule, steps=1))
    solver.save_pretrained(str(folder / SOLVER))
    _save_vocabulary(pipeline.tokenizer, folder / "tokenizer")
    _name_as_published(folder / "text_encoder" / "model.safetensors")


def _save_vocabulary(tokenizer: Any, folder: Path) -> None:
    """What a tokenizer reads that does without the library `tokenizers`, and special tokens by their numbers."""
    tokenizer.backend_tokenizer.model.save(str(folder))
    path = folder / "tokenizer_config.json"
    added = {str(number): token.__getstate__() for number, token in tokenizer.added_tokens_decoder.items()}
    special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    write_json(path, read_json(path) | {"added_tokens_decoder": added})
    write_json(folder / "special_tokens_map.json", special)


def _name_as_published(path: Path) -> None:
    tensors = load_file(path)
    named = {name if name.startswith(_PREFIX) else f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    save_file(named, path, {"format": "pt"})

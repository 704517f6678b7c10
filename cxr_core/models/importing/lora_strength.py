"""How strongly each layer of an adapter counts, as its file or the file beside it says."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cxr_core.errors import UserError
from cxr_core.models.configs import read_object


def read_notes(file: Path) -> Mapping[str, Any]:
    """What a file's notes, or adapter_config.json beside it, say of ranks and alphas, by part; "" for every part.

    Raises UserError where they are damaged.
    """
    beside = file.with_name("adapter_config.json")
    if beside.is_file():
        return {"": read_object(beside)}
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, framework="pt") as opened:
        told = _of_header((opened.metadata() or {}).get("lora_adapter_metadata", "{}"), file)
    notes: dict[str, dict[str, Any]] = {}
    for key, value in told.items():
        part, _, name = key.partition(".")
        notes.setdefault(part, {})[name] = value
    return notes


def _of_header(text: str, file: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(text)
        if isinstance(told, dict):
            return told
        error = f"a {type(told).__name__}"
    except ValueError as caught:
        error = str(caught)
    hint = "save the adapter again with the library that made it; its strength stands there"
    raise UserError(f"its notes lora_adapter_metadata are damaged ({error})", where=str(file), hint=hint)


def strength(name: str, rank: int, alpha: float | None, notes: Mapping[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) where the notes say so (Kalajdzievski 2023, arXiv 2312.03732).

    `alpha` is what the file's tensors say; without it the notes count, and where these say nothing the rank. Raises
    UserError for an adapter that is more than a product of two matrices beside the base.
    """
    about = notes.get("text_encoder" if name.startswith("text_encoder.") else "unet", notes.get("", {}))
    if about.get("use_dora"):
        raise UserError("a DoRA adapter", where="its notes", hint="merge it with the program that made it")
    if str(start := about.get("init_lora_weights")).lower().startswith(_CHANGE_THE_BASE):
        what = f"began with init_lora_weights {start!r}, which changes the weights of the base too"
        raise UserError(what, where="its notes", hint="merge it with the program that made it")
    if alpha is not None:
        return alpha / rank
    own = {**(about.get("alpha_pattern") or {})}
    alpha = next((value for key, value in own.items() if _is_meant(key, name)), about.get("lora_alpha", rank))
    return alpha / (math.sqrt(rank) if about.get("use_rslora") else rank)


_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin of peft that move a part of the base's weights into the adapter."""


def _is_meant(pattern: str, name: str) -> bool:
    """Whether a key of alpha_pattern is of this layer, as peft reads it: a regular expression for the name's end."""
    return re.match(rf"(.*\.)?({pattern})$", _PREFIX.sub("", name)) is not None


_PREFIX = re.compile(r"^(base_model\.model\.)?((unet|text_encoder)\.)?")

"""The weights of a diffusers folder's parts, whatever files they lie in, under the names that the libraries give them.

Read without torch. The digest of a model and the model that is opened both come from here, so that they cannot differ.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from cxr_core.errors import UserError
from cxr_core.models.tensors import Tensor, read_header
from cxr_core.runs.door import read_json

Value = TypeVar("Value")
Part: TypeAlias = Literal["unet", "vae", "text_encoder"]

PARTS: tuple[Part, ...] = ("unet", "vae", "text_encoder")
"""Of a Stable Diffusion, those that have weights."""

IMPORT = "`cxr model import {folder} OUT --as base` writes a folder that can be used"
"""What to do about a folder that cannot be used as it is."""

IMPORT_FILE = "`cxr model import {file} OUT --as base --like FOLDER` makes a folder of it, with the configs of FOLDER"
"""What to do about weights in one file."""

HARMLESS = re.compile(
    r"(embeddings\.)?position_ids|logit_scale|text_projection(\.weight)?|model_ema\.(decay|num_updates)"
)
"""Names, as the library has them, of tensors that files hold and no computation of ours needs: places of tokens, which
are counted; what compares texts with images; counters of an average."""

_STEMS = ("diffusion_pytorch_model", "model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_OLD_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def part_tensors(folder: Path, part: Part) -> dict[str, Tensor]:
    """The tensors of a part by the names that they have once it is opened, without the `HARMLESS` ones.

    Raises UserError where the part has no weights in safetensors, a file of them is missing, damaged or cut off, or two
    tensors stand for one.
    """
    return by_library_name(part, _read(folder, part), where=folder / part)


def by_library_name(part: Part, given: Mapping[str, Value], *, where: Path) -> dict[str, Value]:
    """Tensors by `library_name`, sorted. Raises UserError if two of them have one."""
    named: dict[str, str] = {}
    for name in given:
        if (other := named.setdefault(library_name(part, name), name)) != name:
            hint = "remove the file that is not the model's, or get its files again"
            raise UserError(f"{other} and {name} are both there, and stand for one tensor", where=str(where), hint=hint)
    return {name: given[named[name]] for name in sorted(named) if not HARMLESS.fullmatch(name)}


def library_name(part: Part, name: str) -> str:
    """The name that the library has for a tensor of a file.

    Files older than diffusers 0.12 name attention by query, key, value and proj_attn; transformers before 5 put
    `text_model.` before a text encoder's names.
    """
    if part == "text_encoder":
        return name.removeprefix("text_model.")
    if match := _OLD_ATTENTION.fullmatch(name):
        block, kind, last = match.groups()
        return f"{block}.{_NEW_ATTENTION[kind]}.{last}"
    return name


def old_name(name: str) -> str:
    """The name that files older than diffusers 0.12 have for a tensor of a VAE."""
    for old, new in _NEW_ATTENTION.items():
        name = re.sub(rf"(attentions\.\d+)\.{re.escape(new)}\.", rf"\1.{old}.", name)
    return name


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a part: whole or in shards, in single precision where there is a choice, else fp16.

    Raises UserError where there are none, a shard is missing, or the weights are there both whole and in shards.
    """
    path = first_file(folder)
    if path is None:
        raise _no_weights(folder)
    if path.suffix == ".json":
        return shards(path)
    _insist_alone(path)
    return [path]


def first_file(folder: Path) -> Path | None:
    """The safetensors file of a part that counts before all others, or the index of its shards."""
    names = _file_names(_STEMS if folder.name != "text_encoder" else _STEMS[::-1])
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _insist_alone(whole: Path) -> None:
    """The libraries do not agree on which of the two they open. Shards that are not all there are left from before."""
    index = whole.with_name(f"{whole.name}.index.json")
    if index.is_file() and all((whole.parent / name).is_file() for name in _shard_names(index)):
        raise UserError(
            f"the weights are there twice: {whole.name} and the shards of {index.name}",
            where=str(whole.parent),
            hint=f"remove the one that is not meant; of the shards {index.name} too",
        )


def _file_names(stems: Iterable[str]) -> Iterator[str]:
    for variant in ("", ".fp16"):
        for stem in stems:
            yield f"{stem}{variant}.safetensors"
            yield f"{stem}.safetensors.index{variant}.json"
            yield f"{stem}{variant}.safetensors.index.json"


def shards(index: Path) -> list[Path]:
    """Raises UserError if the index is damaged, or one of its files is missing."""
    names = _shard_names(index)
    if lacking := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(
            f"names {len(names)} files, of which {len(lacking)} are missing: {', '.join(lacking)}",
            where=str(index),
            hint="copy the model's folder again",
        )
    return [index.parent / name for name in names]


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(read_json(index, dict[str, Any])["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"weight_map names {names}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"damaged ({error!r})", where=str(index), hint="copy the model's folder again") from error
    return names


def _read(folder: Path, part: Part) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in weights_files(folder / part):
        tensors = read_header(path)
        if twice := sorted(found.keys() & tensors.keys()):
            hint = "copy the model's folder again"
            raise UserError(f"holds {twice[0]}, which another shard holds too", where=str(path), hint=hint)
        found |= tensors
    return found


def _no_weights(folder: Path) -> UserError:
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    wanted, where = _STEMS[folder.name == "text_encoder"] + ".safetensors", str(folder)
    convert = IMPORT.format(folder=folder.parent)
    if links := [name for name in there if (folder / name).is_symlink() and not (folder / name).exists()]:
        return UserError(f"{links[0]} is a link to a file that is gone", where=where, hint="copy the files, not links")
    if parts := [name for name in there if _SHARD.search(name)]:
        what = f"has {', '.join(parts)}, and no {wanted}.index.json that says what is in them"
        return UserError(what, where=where, hint="get that file too: it lies beside the shards where they come from")
    if others := [name for name in there if name.endswith(".safetensors")]:
        hint = f"rename the one that is meant to {wanted}"
        return UserError(f"has no {wanted}, but {', '.join(others)}", where=where, hint=hint)
    if pickles := [name for name in there if name.endswith(_PICKLES)]:
        what = f"its weights are pickles, which can run code when they are opened: {', '.join(pickles)}"
        return UserError(what, where=where, hint=f"take {wanted} from where the model is published, or {convert}")
    has = f"the folder has {', '.join(there)}" if there else "the folder is empty or missing"
    return UserError(f"is missing ({has})", where=str(folder / wanted), hint="copy the model's folder again")

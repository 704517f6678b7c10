"""A Stable Diffusion of any layout, written as a folder of the one layout that every stage opens."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file

from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.base import Base, inspect_base, inspect_base_configs
from cxr_core.models.checkpoints import weights_sha256
from cxr_core.models.configs import read_config, read_object
from cxr_core.models.expected import expected
from cxr_core.models.fit import differences
from cxr_core.models.importing.single_file import parts_of_file
from cxr_core.models.importing.weights import PICKLES, Tensors, read_part
from cxr_core.models.parts import PARTS, Part
from cxr_core.models.strict import shapes
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.runs.files import atomic_path, write_json

_SMALL_FOLDERS = ("tokenizer", "scheduler")


def import_base(source: Path, out: Path, like: Path | None = None, image_size: int | None = None) -> Base:
    """Write the model in `source` as the new folder `out`, in float32, and return what it is.

    `source` is a diffusers folder (weights in safetensors or pickles, whole or in shards, in whatever precision) or a
    file with the weights of all parts, under diffusers' names or those of the original Stable Diffusion. What it lacks
    of configs, tokenizer and scheduler is taken from the folder `like`; a file has none of them. `image_size` is the
    pixels a side that the model was made for, where unet/config.json does not say it. Raises UserError where a tensor
    is missing, left over, of another shape or not finite, and where `inspect_base` refuses what was written.
    """
    small = _Small(source, like)
    with atomic_path(out) as work:
        work.mkdir()
        _write_configs(small, work, image_size)
        with _named_as(work, like or source):
            inspect_base_configs(work)
        for part, tensors in _weights(source, work):
            _insist_fits(part, tensors, work, source)
            name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
            save_file(tensors, work / part / name, metadata={"format": "pt"})
        with _named_as(work, like or source):
            stable_diffusion.load(work)
        write_json(work / "model.json", {"format": 1, "weights_sha256": weights_sha256(work), "dtype": "float32"})
        if (notes := small.find(TRAINING_DATA)) and notes.parent == source:
            shutil.copyfile(notes, work / TRAINING_DATA)
    return inspect_base(out)


@contextlib.contextmanager
def _named_as(work: Path, given: Path) -> Iterator[None]:
    """Errors of what is written for now name the folder that it was made from."""
    try:
        yield
    except UserError as error:
        where, hint = (text.replace(str(work), str(given)) for text in (error.where, error.hint))
        raise UserError(error.what, where=where, hint=hint) from error


def _insist_fits(part: Part, tensors: Tensors, work: Path, source: Path) -> None:
    wanted = expected(part, read_config(work, part))
    if wanted is not None and (wrong := list(differences(wanted, shapes(tensors)))):
        raise UserError(
            "\n  ".join([f"its {part} is not what {part}/config.json describes:", *wrong]),
            where=str(source),
            hint="get its files again; of a single file, name with --like the configs of the same model",
        )


class _Small:
    """The small files of a model: of `source` where it has them, else of `like`."""

    def __init__(self, source: Path, like: Path | None) -> None:
        self.source = source
        self.folders = [folder for folder in (source, like) if folder is not None and folder.is_dir()]

    def find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).exists()), None)

    def need(self, name: str) -> Path:
        if (found := self.find(name)) is None:
            raise UserError(
                f"there is no {name}",
                where=str(self.source),
                hint="name with --like a diffusers folder of the same model: its configs, tokenizer and scheduler are "
                "taken, so that it needs no weights",
            )
        return found


def _write_configs(small: _Small, work: Path, image_size: int | None) -> None:
    index = read_object(small.need("model_index.json"))
    unused = {name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder")}
    kept = {name: index.get(name) for name in ("_class_name", *PARTS, *_SMALL_FOLDERS)}
    others = {name: value for name, value in index.items() if isinstance(value, list) and name not in kept | unused}
    write_json(work / "model_index.json", {**kept, **others, **unused, "requires_safety_checker": False})
    for name in _SMALL_FOLDERS:
        shutil.copytree(small.need(name), work / name, copy_function=shutil.copyfile)
    for part in PARTS:
        (work / part).mkdir()
        shutil.copyfile(small.need(f"{part}/config.json"), work / part / "config.json")
    _set_sample_size(work, image_size)
    _set_max_length(work)


def _set_sample_size(work: Path, image_size: int | None) -> None:
    """One number a side, where the config gives two equal ones or none."""
    path = work / "unet" / "config.json"
    config, levels = read_object(path), len(read_config(work, "vae")["block_out_channels"])
    side = config.get("sample_size")
    if isinstance(side, list) and len(set(side)) == 1:
        side = side[0]
    if image_size is not None:
        side, rest = divmod(image_size, 2 ** (levels - 1))
        if rest:
            hint = f"take a multiple of {2 ** (levels - 1)}"
            raise UserError(f"images of {image_size} pixels a side", where="--image-size", hint=hint)
    if side != config.get("sample_size"):
        path.write_text(json.dumps(config | {"sample_size": side}, indent=2, sort_keys=True) + "\n")


def _set_max_length(work: Path) -> None:
    """The tokens that the text encoder reads: without it a tokenizer fills texts up for ever."""
    path, most = work / "tokenizer" / "tokenizer_config.json", read_config(work, "text_encoder")
    config = read_object(path) if path.is_file() else {"tokenizer_class": "CLIPTokenizer"}
    length = config.get("model_max_length")
    if not isinstance(length, int) or length > most["max_position_embeddings"]:
        config["model_max_length"] = most["max_position_embeddings"]
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _weights(source: Path, work: Path) -> Iterator[tuple[Part, Tensors]]:
    """Of all parts, one after the other; `work` has their configs already."""
    if source.is_dir():
        yield from ((part, read_part(source, part)) for part in PARTS)
        return
    if source.suffix not in (".safetensors", *PICKLES):
        known = ", ".join((".safetensors", *PICKLES))
        raise UserError("neither a folder nor a file of weights", where=str(source), hint=f"give one of {known}")
    yield from parts_of_file(source, work).items()

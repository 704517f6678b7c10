"""A trained model as a folder to give away, and where it came from."""

import shutil
from collections.abc import Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from typing_extensions import TypedDict

from cxr_core.boundary import commits, public, public_run
from cxr_core.data.pseudonyms import key, unnamed
from cxr_core.errors import UserError
from cxr_core.models.checkpoints import INDEX, final_generator, is_pggan, read_checkpoints, weights_sha256
from cxr_core.models.parts import PARTS
from cxr_core.models.pggan_folder import FOLDER as PGGAN
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.models.training_data import read_training_data
from cxr_core.report.model_card import card
from cxr_core.runs.door import below, parse
from cxr_core.runs.files import atomic_path, read_json, write_json

FORMAT = 1
RECORD = "model.json"
LORA = "lora"
"""Folder of the adapters alone, beside the model that they are merged into."""

Precision = Literal["float16", "float32"]


def export_model(source: Path, out: Path, dtype: Precision = "float16") -> dict[str, Any]:
    """Write the final checkpoint of a train stage, or another model folder, as `out`; return its `model.json`.

    A Stable Diffusion model is rounded to `dtype` and opens in diffusers (`save_portable`); a LoRA that is merged into
    it lies beside it in two forms. A PG-GAN is kept as it is. Beside it lie what the model learnt from, where it says
    so, and a card (README.md). The record has the weights' digest before and after rounding and, from a run, its name,
    code, versions and config, and of every train stage the losses and the commits of the code. All of it is public by
    `cxr_core.boundary`: patients whom no test may be made on are named by keyed hashes (`data.pseudonyms`). Raises
    UserError if `out` is there or `source` is no model.
    """
    if out.exists():
        raise UserError("is already there", where=str(out), hint="remove it, or name another folder")
    folder = final_generator(source)
    with atomic_path(out) as work:
        written = _copy_pggan(folder, work) if is_pggan(folder) else _save_rounded(folder, work, dtype)
        record = {"format": FORMAT, "weights_sha256": weights_sha256(work), "dtype": written}
        record |= {"of_weights_sha256": weights_sha256(folder), **_run_of(source)}
        write_json(work / RECORD, record)
        if learnt := read_training_data(folder):
            shared = learnt.public(key().name if learnt.barred else unnamed)
            write_json(work / TRAINING_DATA, shared.model_dump(mode="json"))
        (work / "README.md").write_text(card(work, record, source if "run" in record else None, out.name))
    return record


def _save_rounded(folder: Path, work: Path, dtype: Precision) -> Precision:
    import torch

    from cxr_core.models import lora_files, stable_diffusion
    from cxr_core.models.portable import save_portable

    pipeline = stable_diffusion.load(folder).to(dtype=getattr(torch, dtype))
    for part in PARTS:
        _insist_rounds(getattr(pipeline, part).state_dict(), folder / part, dtype)
        _forget_notes(getattr(pipeline, part))
    save_portable(pipeline, work)
    config = work / "tokenizer" / "tokenizer_config.json"
    write_json(config, public("tokenizer_config.json", read_json(config)))
    if (folder / LORA / lora_files.DIFFUSERS).is_file():
        adapter = lora_files.read_diffusers(folder / LORA)
        (work / LORA).mkdir()
        lora_files.write_diffusers(adapter, work / LORA)
        lora_files.write_kohya(adapter, work / LORA)
    return dtype


def _forget_notes(part: Any) -> None:
    """Take out of a part's config what its class does not know: anybody may have noted anything there."""
    if hasattr(part, "_internal_dict"):  # a part of diffusers; the other is of transformers
        known = {*signature(type(part).__init__).parameters, *_OF_DIFFUSERS}
        part._internal_dict = type(part._internal_dict)({k: v for k, v in part._internal_dict.items() if k in known})
        return
    for name in set(part.config.to_dict()) - set(type(part.config)().to_dict()):
        delattr(part.config, name)


_OF_DIFFUSERS = ("_class_name", "_diffusers_version", "_use_default_values")


def _insist_rounds(tensors: Mapping[str, Any], part: Path, dtype: Precision) -> None:
    """Half precision ends at 65,504."""
    if bad := [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise UserError(
            f"{len(bad)} tensors have values that {dtype} cannot hold: {', '.join(bad[:10])}",
            where=str(part),
            hint="keep all digits: --float32" if dtype == "float16" else "take an earlier checkpoint of that training",
        )


def _copy_pggan(folder: Path, work: Path) -> Precision:
    work.mkdir()
    about = read_json(folder / PGGAN.about)
    kept = public("pggan.json", about)
    kept["about"] = public("pggan.json about", kept.get("about", {}))
    if kept == about:
        shutil.copyfile(folder / PGGAN.about, work / PGGAN.about)  # the digest of weights covers its bytes
    else:
        write_json(work / PGGAN.about, kept)
    _copy_tensors(folder / PGGAN.weights, work / PGGAN.weights)
    return "float32"


def _copy_tensors(source: Path, out: Path) -> None:
    """A safetensors file without notes of others in its header."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(source, "pt") as file:
        notes = file.metadata() or {}
    if set(notes) <= {"format"} and notes.get("format", "pt") == "pt":
        shutil.copyfile(source, out)
    else:
        save_file(load_file(source), out)


def _run_of(source: Path) -> Mapping[str, Any]:
    """What made a train stage's model; nothing for a folder that is in no run."""
    root = source.resolve().parent
    if not (source / INDEX).is_file() or not (root / "run.json").is_file():
        return {}
    return {"run": public_run(read_json(root / "run.json")), "losses": dict(_losses(root))}


def _losses(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each train stage of a run: steps, loss on held-out images at each checkpoint, and the code's commits."""
    for index in sorted(root.glob(f"*/{INDEX}")):
        checkpoints = read_checkpoints(index.parent)
        losses = {str(each.step): each.validation_loss for each in checkpoints}
        yield (
            index.parent.name,
            {
                "steps": checkpoints[-1].step,
                "validation_loss": losses,
                "commits": commits(sorted(_commits(index.parent))),
            },
        )


def _commits(stage: Path) -> set[str]:
    """The commits of the code that worked on a stage, by its attempts."""
    paths = sorted(stage.glob("attempts/*/events.jsonl"))
    lines = ((below(path.parent, 3).first_line(path.name), path) for path in paths)
    return {parse(line, _FirstEvent, path, line=1)["code"]["commit"] for line, path in lines if line.endswith(b"\n")}


class _Code(TypedDict):
    commit: str


class _FirstEvent(TypedDict):
    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]

    code: _Code

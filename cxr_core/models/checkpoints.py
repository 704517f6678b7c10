"""Checkpoints of a train stage: whole model folders, listed in `checkpoints.json`, thinned by a keep rule."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from cxr_core.errors import UserError
from cxr_core.models.base import Base
from cxr_core.models.configs import settings_sha256
from cxr_core.models.parts import IMPORT_FILE, PARTS, old_name, part_tensors
from cxr_core.models.pggan_folder import pggan_sha256
from cxr_core.models.tensors import values_sha256
from cxr_core.runs.door import STRICT, Inside, Place, parse
from cxr_core.runs.files import canonical_json, read_json, sha256_file, sha256_text, walk_files, write_json

FORMAT = 1
INDEX = "checkpoints.json"

BUILT_IN = {"tiny_base": Path(__file__).with_name("tiny_base")}
"""Models that come with the package, by the name that a config gives them."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a train stage; paths are relative to the stage's folder.

    `path` and `sha256` are None once the keep rule has removed the weights. `preview` is the folder with preview.png
    and preview.json (None for a classifier), `metrics` the JSON lines of the interval's steps; these always stay.
    """

    step: int
    shard: str
    path: Inside | None
    sha256: str | None
    preview: Inside | None
    metrics: Inside
    validation_loss: float | None = None


class _Index(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    final: Inside | None
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1)]


def write_checkpoints(stage_folder: Path, checkpoints: Sequence[Checkpoint]) -> None:
    """Write `checkpoints.json`; the last of `checkpoints` is the final one."""
    listed = [asdict(checkpoint) for checkpoint in checkpoints]
    write_json(stage_folder / INDEX, {"format": FORMAT, "checkpoints": listed, "final": checkpoints[-1].path})


def read_checkpoints(stage_folder: Path) -> list[Checkpoint]:
    """All checkpoints of a finished train stage, in order of steps. Raises UserError if it is none."""
    path = stage_folder / INDEX
    if not path.is_file():
        raise UserError("not a finished train stage: it has no checkpoints.json", where=str(stage_folder))
    text = Place(stage_folder).read(INDEX)
    number = parse(text, dict[str, Any], path).get("format")
    if number != FORMAT:
        raise UserError(f"format {number!r}, but this version reads {FORMAT}", where=str(path))
    return list(parse(text, _Index, path)["checkpoints"])


ModelKind = Literal["stable-diffusion", "classifier", "localiser", "pggan"]

_MARKS: dict[ModelKind, tuple[str, str, str]] = {
    "stable-diffusion": (
        "model_index.json",
        "a Stable Diffusion folder",
        "give the folder that holds model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/",
    ),
    "classifier": (
        "classifier.json",
        "a classifier's folder",
        "give a train stage with model: classifier, or the folder with classifier.json and classifier.safetensors",
    ),
    "localiser": (
        "localiser.json",
        "a localiser's folder",
        "give a train stage with model: localiser, or the folder with localiser.json and localiser.safetensors",
    ),
    "pggan": (
        "pggan.json",
        "a PG-GAN's folder",
        "give a train stage with model: pggan, or the folder with pggan.json and pggan.safetensors",
    ),
}
"""Kind -> the file by which its folder is known, the folder in words, and what to give."""


def final_checkpoint(path: Path, kind: ModelKind = "stable-diffusion") -> Path:
    """The model folder that `path` stands for: a train stage's final checkpoint, or the folder itself.

    Raises UserError where `path` is neither, or holds a model of another kind.
    """
    is_stage = (path / INDEX).is_file()
    folder = path / str(read_checkpoints(path)[-1].path) if is_stage else path
    mark, words, hint = _MARKS[kind]
    for other, (other_mark, other_words, _) in _MARKS.items():
        if other != kind and (folder / other_mark).is_file():
            raise UserError(f"{other_words}, where {words} is wanted", where=str(path), hint=hint)
    if is_stage or (folder / mark).is_file():
        return folder
    if kind == "stable-diffusion" and (single := [*folder.glob("*.safetensors"), *folder.glob("*.ckpt")]):
        hint = IMPORT_FILE.format(file=single[0])
    raise UserError(f"neither a finished train stage nor {words} (it has no {mark})", where=str(path), hint=hint)


def is_pggan(folder: Path) -> bool:
    """Whether a model folder holds a PG-GAN, which hears no words."""
    return (folder / _MARKS["pggan"][0]).is_file()


def final_generator(path: Path) -> Path:
    """As `final_checkpoint`, of a model that draws images: Stable Diffusion or PG-GAN."""
    folder = path / str(read_checkpoints(path)[-1].path) if (path / INDEX).is_file() else path
    return final_checkpoint(path, "pggan" if is_pggan(folder) else "stable-diffusion")


def kept_steps(path: Path) -> list[int]:
    """Steps of the checkpoints whose weights a finished train stage has kept. Raises UserError if it is none."""
    return [checkpoint.step for checkpoint in read_checkpoints(path) if checkpoint.path is not None]


def checkpoint_at(path: Path, step: int | None) -> Path:
    """The folder of a generator's checkpoint in a train stage; None: the final one, or the folder itself.

    Raises UserError where the stage has no checkpoint of that step, or has not kept it.
    """
    if step is None:
        return final_generator(path)
    found = [checkpoint.path for checkpoint in read_checkpoints(path) if checkpoint.step == step]
    if not found or found[0] is None:
        what = "did not keep its checkpoint" if found else "has no checkpoint"
        kept = ", ".join(map(str, kept_steps(path)))
        raise UserError(f"the train stage {what} of step {step}", where=str(path), hint=f"it has those of {kept}")
    return path / found[0]


def weights_sha256(folder: Path) -> str:
    """Digest of a model by content: of the values of its weights, and of what its configs say of the computation.

    The same for the same model, whatever files its weights lie in and whatever names these give them: half precision
    counts as the single precision that it is computed in. Others files beside it (a README, a download cache, a
    preview) do not count. Of a PG-GAN's folder, over its two files, whose layout is ours.
    """
    if is_pggan(folder):
        return pggan_sha256(folder)
    parts = {part: values_sha256(part_tensors(folder, part)) for part in PARTS}
    return sha256_text(canonical_json({"weights": parts, "settings": settings_sha256(folder)}))


def has_weights(folder: Path, recorded: str) -> bool:
    """Whether a recorded digest is that of the model: `weights_sha256`, or what earlier versions recorded."""
    return recorded == weights_sha256(folder) or (not is_pggan(folder) and recorded == files_sha256(folder))


def files_sha256(folder: Path) -> str:
    """What versions up to 0.1 recorded as `weights_sha256`: over all files of the parts that model_index.json names.

    Of one layout alone: the same model saved anew had another one.
    """
    index = read_json(folder / "model_index.json")
    components = [folder / name for name in sorted(index) if (folder / name).is_dir()]
    files = [folder / "model_index.json", *(file for component in components for file in walk_files(component))]
    return sha256_text("".join(f"{file.relative_to(folder).as_posix()}\0{sha256_file(file)}\n" for file in files))


def vae_sha256(folder: Path) -> str:
    """Digest of the weights of a folder's VAE, by content: the folder that it was loaded from has the same."""
    return values_sha256(part_tensors(folder, "vae"))


def has_vae(folder: Path, recorded: str) -> bool:
    """Whether a recorded digest is that of the folder's VAE: `vae_sha256`, or that of versions up to 0.1.

    These digested tensors under the names of the file, which in files older than diffusers 0.12 are others.
    """
    tensors = part_tensors(folder, "vae")
    return recorded in (values_sha256(tensors), values_sha256({old_name(name): t for name, t in tensors.items()}))


def lock_base(base: Base, expected: str | None, record: Path) -> None:
    """Write what a stage starts from into `record`, a side file of its plan, which so depends on the weights' content.

    Raises UserError if `expected` is given and is not the digest of the diffusers folder, or if weights are not finite.
    """
    found = weights_sha256(base.folder)
    if expected not in (None, found) and expected != files_sha256(base.folder):
        raise UserError(
            f"the weights have sha256 {found}, but base_sha256 is {expected}",
            where=str(base.folder),
            hint="get the weights that were meant, or set base_sha256 to the digest above if these are the right ones",
        )
    write_json(record, {"format": FORMAT, "weights_sha256": found, "prediction": base.prediction})


def is_kept(step: int, newest: int, *, interval: int, last: int, every: int | None) -> bool:
    """The keep rule: the `last` newest of the checkpoints at every `interval` steps, and multiples of `every`."""
    younger = -(-(newest - step) // interval)
    return younger < last or (every is not None and step % every == 0)

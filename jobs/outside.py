"""What a stage of a run is a function of: its job, its inputs in the run and outside of it, and the files it reads."""

from importlib import import_module
from pathlib import Path
from typing import Any

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.runs.files import sha256_text, walk_files
from cxr_core.runs.run import Run
from cxr_core.runs.sources import KnownFiles, digest_of, files_named
from cxr_core.runs.stage import Context, StageJob
from cxr_core.seeds import derive_seed
from jobs.config import RunConfig
from jobs.inputs import inputs_of, user_path

_MODULES = {
    "preprocess": "jobs.preprocess",
    "latents": "jobs.latents",
    "train": "jobs.train",
    "invert": "jobs.invert",
    "generate": "jobs.generate",
    "evaluate": "jobs.evaluate",
}
"""The module that does the work of a stage, by the stage's kind."""


def job_of(stage: Any) -> StageJob:
    """The module that does the work of a stage, by its kind."""
    return import_module(_MODULES[stage.kind])


def context_of(run: Run, config: RunConfig, stage: Any, names: set[str]) -> Context:
    inputs = {
        role: run.root / value if value in names else user_path(value) for role, value in inputs_of(stage).items()
    }
    return Context(stage, inputs, derive_seed(config.seed, stage.name), run.stage(stage.name).path)


def outside(stage: Any, names: set[str], known: KnownFiles, *, is_old: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What a stage reads outside of its run: role -> digest of a folder, and path -> sha256 of each file."""
    named = getattr(job_of(stage), "sources", files_named)(stage)
    files, digests = {str(path): known.digest(path) for path in named}, {}
    for role, value in inputs_of(stage).items():
        if value not in names:
            path = user_path(value)
            digests[role], of_folder = path_digest(path, known)
            if is_old:
                digests[role] = old_path_digest(path)
            if value not in BUILT_IN:  # these lie where the package does, and that may be anywhere
                files |= of_folder
    return digests, files


def path_digest(path: Path, known: KnownFiles) -> tuple[str, dict[str, str]]:
    """What stands for the content of a folder of the user's, and the sha256 of its files: a Dataset's digest, else one
    over all files. Weights of many gigabytes are read once: files whose size and times stay are believed after that.
    """
    if (path / "dataset.json").is_file():
        info = Dataset.open(path).info
        tars = {path / shard["name"]: shard["sha256"] for shard in info.shards}
        files = [path / "dataset.json", path / "index.parquet"]
        seen = {str(file): known.digest(file) for file in files}
        return info.digest, seen | {str(tar): known.digest(tar, told) for tar, told in tars.items()}
    if not path.is_dir():
        raise UserError("no such folder", where=str(path), hint="correct `inputs` in the config")
    return digest_of(path, known)


def old_path_digest(path: Path) -> str:
    """What plans held of a folder before they held its content: the names and sizes of its files."""
    if (path / "dataset.json").is_file():
        return Dataset.open(path).info.digest
    return sha256_text("".join(f"{file.relative_to(path)}\0{file.stat().st_size}\n" for file in walk_files(path)))

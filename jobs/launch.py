"""Work on a run in this process: its stages in order, each frozen, run, finalized. What is done is not done again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.home import expanded
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.runs import image
from cxr_core.runs.failures import release
from cxr_core.runs.files import sha256_text, walk_files
from cxr_core.runs.ledger import read_ledger
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import Run
from cxr_core.runs.stage import Context, Job
from cxr_core.seeds import derive_seed
from jobs.config import RunConfig, flat_inputs, inputs_of, resolved


@dataclass(frozen=True)
class StageResult:
    """How one stage went: what was made now (0 where it was done before) and the seconds that took."""

    name: str
    kind: str
    num_shards: int
    num_made: int
    seconds: float


def job_of(stage: Any) -> Job:
    """The module that does the work of a stage, by its kind."""
    return import_module(f"jobs.{stage.kind}")


def run_stages(
    config: RunConfig,
    runs: Path,
    only: str | None = None,
    *,
    retry_parked: bool = False,
    accept_image: bool = False,
) -> list[StageResult]:
    """Do all stages that are not done (or the one named) of the run `<runs>/<name>`, under its lock.

    Shards that are parked, since they failed again and again, are left out unless `retry_parked`.
    Raises UserError if a stage was planned in another container image than this process runs in, unless `accept_image`.
    """
    stages = [config.stage(only)] if only else config.stages
    with Run.locked(runs / config.name, resolved(config)) as run:
        if accept_image:
            image.accept(run.root)
        if retry_parked:
            for stage in stages:
                release(run.stage(stage.name).path)
        return [_run_stage(run, config, stage.name) for stage in stages]


def prepare(run: Run, config: RunConfig, name: str) -> Work:
    """One stage of a run ready to be worked on. Raises UserError if a stage that it needs is not finished."""
    stage = config.stage(name)
    folder = run.stage(name)
    folder.path.mkdir(exist_ok=True)
    names = {other.name for other in config.stages}
    given = inputs_of(stage)
    inputs = {role: run.root / value if value in names else user_path(value) for role, value in given.items()}
    upstream = {role: _digest(run, value, inputs[role], names) for role, value in given.items()}
    context = Context(stage, inputs, derive_seed(config.seed, name), folder.path)
    return Work(folder, job_of(stage), context, upstream)


def input_of(stage: Path, role: str) -> Path | None:
    """What the run of a stage's folder names in a role of its `inputs`; None where the folder is no stage of a run."""
    if not (stage.absolute().parent / "config.yaml").is_file():
        return None
    run = Run.open(stage.absolute().parent)
    stages = {entry["name"]: entry for entry in run.config["stages"]}
    entry = stages.get(stage.absolute().name)
    value = flat_inputs(entry["inputs"]).get(role) if entry else None
    if value is None:
        return None
    return run.root / value if value in stages else user_path(value)


def user_path(text: str) -> Path:
    """A folder named in `inputs`: a model of ours by its name, else relative to the working directory."""
    return BUILT_IN.get(text) or expanded(text).absolute()


def _digest(run: Run, name: str, path: Path, names: set[str]) -> str:
    if name not in names:
        return path_digest(path)
    facts = run.stage(name).facts()
    if facts is None:
        raise UserError(
            f"stage {name!r} is not finished, and this stage needs it",
            where=str(run.root),
            mend=f"`cxr run CONFIG` does all stages in order; `--stage {name}` does that one",
        )
    return str(facts["digest"])


def path_digest(path: Path) -> str:
    """What stands for the content of a folder of the user's: a Dataset's digest, else the names and sizes of its files.

    Weights of many gigabytes are not hashed at every start; `base_sha256` in the config locks them.
    """
    if (path / "dataset.json").is_file():
        return Dataset.open(path).info.digest
    if not path.is_dir():
        raise UserError("no such folder", where=str(path), mend="correct `inputs` in the config")
    return sha256_text("".join(f"{file.relative_to(path)}\0{file.stat().st_size}\n" for file in walk_files(path)))


def _run_stage(run: Run, config: RunConfig, name: str) -> StageResult:
    start = time.monotonic()
    work = prepare(run, config, name)
    plan = freeze(work)
    todo = [shard.id for shard in plan.shards if shard.id not in work.folder.done()]
    facts = work.folder.facts()
    if todo or facts is None:
        if todo:
            read_ledger(run).check_budget(config.budget_gpu_hours)
            run_pack(work, plan, todo)
        finalize(work, plan)
    seconds = time.monotonic() - start
    return StageResult(work.folder.name, work.context.settings.kind, len(plan.shards), len(todo), seconds)


def estimates(config: RunConfig) -> Mapping[str, Any]:
    """Stage name -> `Estimate`, computed in order from settings alone."""
    found: dict[str, Any] = {}
    for stage in config.stages:
        inputs = {role: found.get(value, user_path(value)) for role, value in inputs_of(stage).items()}
        found[stage.name] = job_of(stage).estimate(stage, inputs)
    return found

"""Work on a run in this process: its stages in order, each frozen, run, finalized. What is done is not done again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.runs.failures import release
from cxr_core.runs.ledger import read_ledger
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import Run
from cxr_core.runs.sources import KnownFiles
from cxr_core.shown import say
from jobs.config import RunConfig, continued, in_current_keys, resolved
from jobs.inputs import inputs_of, user_path
from jobs.origin import NOTHING_ELSE, Consent, check_origin
from jobs.outside import context_of, job_of, outside


@dataclass(frozen=True)
class StageResult:
    """How one stage went: what was made now (0 where it was done before) and the seconds that took."""

    name: str
    kind: str
    num_shards: int
    num_made: int
    seconds: float
    problems: Mapping[str, int] = field(default_factory=dict)
    """Cases of each kind in the stage's problems.csv, where it makes images and was finished now."""


def run_stages(
    config: RunConfig,
    runs: Path,
    only: str | None = None,
    *,
    retry_parked: bool = False,
    consent: Consent = NOTHING_ELSE,
) -> list[StageResult]:
    """Do all stages that are not done (or the one named) of the run `<runs>/<name>`, under its lock.

    Shards that are parked, since they failed again and again, are left out unless `retry_parked`. Raises UserError if
    a stage was planned in another image, by other code or libraries, or of other inputs than there are now, unless
    `consent` says that this is fine.
    """
    config = continued(config, runs / config.name)
    stages = [config.stage(only)] if only else config.stages
    with Run.locked(runs / config.name, resolved(config), read=in_current_keys) as run:
        for note in check_origin(run, config, consent, [stage.name for stage in stages]):
            say(note, err=True)
        if retry_parked:
            for stage in stages:
                release(run.stage(stage.name).path)
        return [_run_stage(run, config, stage.name) for stage in stages]


def prepare(run: Run, config: RunConfig, name: str) -> Work:
    """One stage of a run ready to be worked on. Raises UserError if a stage that it needs is not finished."""
    stage = config.stage(name)
    folder = run.stage(name)
    folder.place.make()
    names = {other.name for other in config.stages}
    plan = folder.plan()
    known = KnownFiles.of(folder.path)
    digests, files = outside(stage, names, known, is_old=plan is not None and plan.is_old)
    known.write()
    upstream = {role: digests.get(role) or _digest(run, value) for role, value in inputs_of(stage).items()}
    return Work(folder, job_of(stage), context_of(run, config, stage, names), upstream, files)


def _digest(run: Run, name: str) -> str:
    facts = run.stage(name).facts()
    if facts is None:
        raise UserError(
            f"stage {name!r} is not finished, and this stage needs it",
            where=str(run.root),
            hint=f"`cxr run CONFIG` does all stages in order; `--stage {name}` does that one",
        )
    return str(facts["digest"])


def _run_stage(run: Run, config: RunConfig, name: str) -> StageResult:
    start = time.monotonic()
    work = prepare(run, config, name)
    plan = freeze(work)
    todo = [shard.id for shard in plan.shards if shard.id not in work.folder.done()]
    facts = work.folder.facts()
    problems: Mapping[str, int] = {}
    if todo or facts is None:
        if todo:
            read_ledger(run).check_budget(config.budget_gpu_hours)
            run_pack(work, plan, todo)
        problems = finalize(work, plan).get("problems", {})
    seconds = time.monotonic() - start
    return StageResult(work.folder.name, work.context.settings.kind, len(plan.shards), len(todo), seconds, problems)


def estimates(config: RunConfig, run: Run | None = None) -> Mapping[str, Any]:
    """Stage name -> `Estimate`, computed in order from settings alone; of what `run` has planned, from the plan where
    the job can, so that tables and images need not be there any more."""
    found: dict[str, Any] = {}
    for stage in config.stages:
        planned = getattr(job_of(stage), "estimate_planned", None)
        plan = run.stage(stage.name).plan() if run and planned else None
        if planned and plan:
            found[stage.name] = planned(stage, sum(shard.num_items for shard in plan.shards))
            continue
        inputs = {role: found.get(value, user_path(value)) for role, value in inputs_of(stage).items()}
        found[stage.name] = job_of(stage).estimate(stage, inputs)
    return found

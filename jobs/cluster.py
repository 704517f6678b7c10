"""A run on a cluster: what is left of each stage, the jobs for it, and sending, cancelling and resuming them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.errors import UserError
from cxr_core.runs import image
from cxr_core.runs.failures import parked, release
from cxr_core.runs.ledger import read_ledger
from cxr_core.runs.pack import freeze
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.submits import Submit, submit_folders
from jobs.config import RunConfig, inputs_of, resolved
from jobs.container import copies, image_of, prefix, prelude, working_in_image_of
from jobs.launch import estimates, prepare
from slurm.packs import Job, StageWork, plan_jobs
from slurm.profile import ClusterProfile, load_profile
from slurm.queue import cancel, num_queued, queued
from slurm.submit import Launch, do_here, live_jobs, record, script_text, send

_NUM_MEASURED = 20
"""Receipts that are read to measure the time of a shard."""


@dataclass(frozen=True)
class Sent:
    """What a submit or resume did: jobs with their ids, in order, and the jobs that were in the queue before."""

    jobs: Sequence[tuple[Job, str]]
    live: Sequence[str]


@dataclass(frozen=True)
class Preview:
    """What a submit would do."""

    works: Sequence[StageWork]
    jobs: Sequence[Job]
    scripts: Sequence[str]
    profile: ClusterProfile
    image: str = ""
    """What bringing the container's image to the nodes costs, in words."""


def preview(config: RunConfig, runs: Path, cluster: str, only: str | None = None) -> Preview:
    """The jobs of a run and their scripts, with letters for what only the scheduler knows. Sends and writes nothing."""
    profile = load_profile(cluster)
    root = (runs / config.name).absolute()
    run = Run.open(root) if (root / "config.yaml").exists() else Run(root, resolved(config))
    works = [_as_if_frozen(work, profile) for work in _works(run, config, {}, only)]
    jobs = plan_jobs(works, profile)
    launch = _launch(run, profile, cluster, Path.cwd())
    return Preview(
        works, jobs, [_preview_script(launch, jobs, i) for i in range(len(jobs))], profile, _copies(profile, jobs)
    )


def _copies(profile: ClusterProfile, jobs: Sequence[Job]) -> str:
    found = image_of(profile)
    return copies(found, profile, jobs) if found else ""


def _as_if_frozen(work: StageWork, profile: ClusterProfile) -> StageWork:
    """Stages that submit will freeze before it plans the jobs."""
    if work.todo is not None or work.upstream or profile.container is not None:
        return work
    return replace(work, todo=[f"{i:05d}" for i in range(work.num_shards)])


def _preview_script(launch: Launch, jobs: Sequence[Job], i: int) -> str:
    job = jobs[i]
    folders = launch.run.stage(job.work.name).path / "submits"
    before = sum(other.work.name == job.work.name for other in jobs[:i])
    folder = folders / f"{_last_number(folders) + 1 + before:04d}"
    waits = [f"JOB{each + 1}" if isinstance(each, int) else each for each in job.after]
    return script_text(launch, job, folder, replace(record(launch, job, waits_for=waits), id="ID"))


def _last_number(folders: Path) -> int:
    numbers = [int(path.name) for path in folders.glob("*") if path.name.isdigit()]
    return max(numbers, default=0)


def submit(config: RunConfig, runs: Path, cluster: str, only: str | None = None, *, accept_image: bool = False) -> Sent:
    """Send the jobs of a run that are not in the queue. Safe to call again at any time, also while they run.

    Raises UserError if a stage was planned in another image than the profile's, unless `accept_image`.
    """
    root, profile = (runs / config.name).absolute(), load_profile(cluster)
    with working_in_image_of(profile), Run.locked(root, resolved(config)) as run:
        _check_image(run, config, accept_image)
        return _send(run, config, profile, _cluster_name(cluster), Path.cwd(), only)


def resume(
    root: Path, cluster: str | None, *, if_needed: bool, retry_parked: bool = False, accept_image: bool = False
) -> Sent:
    """Send new jobs for exactly what has no receipt, to the cluster of the last submit unless another is named.

    Shards that are parked are left out unless `retry_parked`. Raises UserError if jobs of the run are still in the
    queue, unless `if_needed` says that this is fine, and if the run's budget is used up.
    """
    config_of = Run.open(root.absolute())
    config = RunConfig.model_validate(config_of.config)
    last = _last_submit(config_of)
    if last is None and cluster is None:
        raise UserError("nothing of this run was submitted", where=str(root), mend="cxr submit CONFIG --cluster NAME")
    name = cluster or (last.cluster if last else "")
    cwd = Path(last.cwd) if last else Path.cwd()
    profile = load_profile(name)
    with working_in_image_of(profile), Run.locked(config_of.root, config_of.config) as run:
        live = _live(run, profile)
        if live:
            if if_needed:
                return Sent((), live)
            raise UserError(
                f"jobs of this run are still in the queue: {', '.join(live)}",
                where=str(root),
                mend=f"wait for them, or `cxr cancel {root}` first; with --if-needed this is no error",
            )
        if retry_parked:
            for stage in config.stages:
                release(run.stage(stage.name).path)
        _check_image(run, config, accept_image)
        return _send(run, config, profile, name, cwd, None)


def cancel_run(root: Path) -> list[str]:
    """Cancel the jobs of a run that are in the queue and return their ids."""
    run = Run.open(root.absolute())
    live = _live_ids(run, queued())
    if live:
        cancel(live)
    return live


def _check_image(run: Run, config: RunConfig, accepted: bool) -> None:
    """Whether the stages that are planned may go on in the image of the profile."""
    if accepted:
        image.accept(run.root)
    for stage in config.stages:
        plan = run.stage(stage.name).plan()
        if plan is not None:
            image.check(run.root, stage.name, plan.image)


def _send(run: Run, config: RunConfig, profile: ClusterProfile, cluster: str, cwd: Path, only: str | None) -> Sent:
    read_ledger(run).check_budget(config.budget_gpu_hours)
    is_slurm = profile.scheduler == "slurm"
    queue = queued() if is_slurm else {}
    _freeze_roots(run, config, profile)
    works = _works(run, config, queue, only)
    jobs = plan_jobs(works, profile, num_queued=num_queued() if is_slurm else 0)
    launch = _launch(run, profile, cluster, cwd)
    live = _live_ids(run, queue)
    if is_slurm:
        return Sent(send(launch, jobs), live)
    do_here(launch, jobs)
    return Sent([(job, "here") for job in jobs], live)


def _freeze_roots(run: Run, config: RunConfig, profile: ClusterProfile) -> None:
    """Stages that need no other are planned at once, so that mistakes in them show before anything waits in a queue.

    The plan's fingerprint holds the image: one that is to be used in a container is frozen in it.
    """
    names = {stage.name for stage in config.stages}
    for stage in config.stages:
        if profile.container is None and not names & set(inputs_of(stage).values()):
            freeze(prepare(run, config, stage.name))


def _works(run: Run, config: RunConfig, queue: Mapping[str, str], only: str | None) -> list[StageWork]:
    """What is left to do of each stage, or of the one named, whose inputs then must be there or in the queue."""
    sizes = estimates(config)
    wanted = config.stage(only).name if only else None
    works = [_work(run, stage, sizes[stage.name], config, queue) for stage in config.stages]
    if wanted is None:
        return works
    chosen = next(work for work in works if work.name == wanted)
    needed = [work for work in works if work.name in chosen.upstream]
    lacking = [work.name for work in needed if not work.finished and not work.jobs]
    if lacking:
        raise UserError(
            f"stage {wanted!r} needs {', '.join(map(repr, lacking))}, which is neither finished nor in the queue",
            where=str(run.root),
            mend="submit that stage first, or leave out --stage",
        )
    return [*(replace(work, finished=True) for work in needed), chosen]


def _work(run: Run, stage: Any, size: Any, config: RunConfig, queue: Mapping[str, str]) -> StageWork:
    folder = run.stage(stage.name)
    names = {other.name for other in config.stages}
    plan = folder.plan()
    done, aside = folder.done(), parked(folder.path)
    facts = folder.facts()
    return StageWork(
        name=stage.name,
        kind=stage.kind,
        threads=stage.threads,
        num_items=sum(shard.num_items for shard in plan.shards) if plan else size.num_items,
        num_shards=len(plan.shards) if plan else size.num_shards,
        chain=plan.chain if plan else stage.kind == "train",
        upstream=[name for name in inputs_of(stage).values() if name in names],
        todo=[shard.id for shard in plan.shards if shard.id not in done | aside] if plan else None,
        finished=facts is not None and plan is not None and {shard.id for shard in plan.shards} <= done,
        seconds=_measured(folder, done),
        num_files=size.num_files,
        num_bytes=size.num_bytes,
        jobs=live_jobs(run, stage.name, queue) if queue else {},
    )


def _measured(folder: StageFolder, done: set[str]) -> float | None:
    """Mean seconds of a shard, by some of the receipts that there are."""
    some = sorted(done)[:: max(1, len(done) // _NUM_MEASURED)][:_NUM_MEASURED]
    seconds = [folder.receipt(shard).seconds for shard in some]
    total = sum(parts.get("make", 0.0) + parts.get("place", 0.0) for parts in seconds)
    return total / len(some) if some and total > 0 else None


def _launch(run: Run, profile: ClusterProfile, cluster: str, cwd: Path) -> Launch:
    found = image_of(profile)
    if found is None:
        return Launch(run, profile, cluster, cwd, [sys.executable], code_folder())
    python = [*prefix(found, profile, run.root, cwd), "python"]
    return Launch(run, profile, cluster, cwd, python, None, prelude(found, profile))


def code_folder() -> Path | None:
    """The folder that tasks must be told of to find this code: that of a checkout, not of an installation."""
    folder = Path(cxr_core.__file__).absolute().parents[1]
    return None if folder.name in ("site-packages", "dist-packages") else folder


def _cluster_name(given: str) -> str:
    """A profile named by a path is found again from elsewhere."""
    return str(Path(given).expanduser().absolute()) if Path(given).expanduser().is_file() else given


def _last_submit(run: Run) -> Submit | None:
    folders = [folder for stage in run.config["stages"] for folder in submit_folders(run.stage(stage["name"]).path)]
    submits = [Submit.read(folder) for folder in folders]
    return max(submits, key=lambda each: each.time, default=None)


def _live(run: Run, profile: ClusterProfile) -> list[str]:
    return _live_ids(run, queued()) if profile.scheduler == "slurm" else []


def _live_ids(run: Run, queue: Mapping[str, str]) -> list[str]:
    return [job for stage in run.config["stages"] for job in live_jobs(run, stage["name"], queue)]

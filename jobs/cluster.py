"""A run on a cluster: the jobs for what is left of its stages, and sending, cancelling and resuming them."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.home import expanded
from cxr_core.runs.facts import facts_of_run
from cxr_core.runs.failures import release
from cxr_core.runs.follow_up import FollowUp, follow_up
from cxr_core.runs.ledger import Ledger
from cxr_core.runs.pack import freeze
from cxr_core.runs.resumes import FOLDER, AutoResume, path_of
from cxr_core.runs.run import Run
from jobs.config import RunConfig, config_of, going_on, inputs_of, renewed, resolved
from jobs.container import copies, image_of, prefix, prelude, working_in_image_of
from jobs.launch import prepare
from jobs.origin import NOTHING_ELSE, Consent, check_origin
from jobs.remaining import asking_otherwise, park, possible, refuse_recurring, release_unstarted, works_of
from jobs.whose import is_mine, where_sent
from slurm.accounting import refresh
from slurm.grammar import cluster_of, number_of
from slurm.notes import notes_on
from slurm.packs import Job, StageWork, plan_jobs
from slurm.profile import ClusterProfile, find_profile, load_profile
from slurm.queue import cancel, num_queued, queued
from slurm.submit import (
    Launch,
    clusters_of,
    code_folder,
    do_here,
    drop_unlaunched,
    live_jobs,
    record,
    script_text,
    send,
)


@dataclass(frozen=True)
class Sent:
    """What a submit or resume did: jobs with their ids, in order, the jobs that were in the queue before, and lines
    about what was decided by itself: shards parked, nodes left out, memory raised."""

    jobs: Sequence[tuple[Job, str]]
    live: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Preview:
    """What a submit would do."""

    works: Sequence[StageWork]
    jobs: Sequence[Job]
    scripts: Sequence[str]
    profile: ClusterProfile
    image: str = ""
    """What bringing the container's image to the nodes costs, in words."""
    notes: Sequence[str] = ()
    """What in the profile may mean another thing than was meant."""


def preview(config: RunConfig, runs: Path, cluster: str, only: str | None = None) -> Preview:
    """The jobs of a run and their scripts, with letters for what only the scheduler knows. Sends and writes nothing."""
    profile = load_profile(cluster)
    root = (runs / config.name).absolute()
    config = going_on(config, root)
    run = Run.open(root) if (root / "config.yaml").exists() else Run(root, resolved(config))
    works = [_as_if_frozen(work, profile) for work in works_of(run, config, {}, only)]
    works, _ = asking_otherwise(possible(works)[0], profile, what_follows(run))
    jobs = plan_jobs(works, profile)
    launch = launch_of(run, profile, cluster, Path.cwd())
    scripts = [_preview_script(launch, jobs, i) for i in range(len(jobs))]
    return Preview(works, jobs, scripts, profile, _copies(profile, jobs), list(map(str, notes_on(profile))))


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


@contextmanager
def locked_for(profile: ClusterProfile, root: Path, config: Mapping[str, Any]) -> Iterator[Run]:
    """The run, under its lock; what is recorded inside names the image of the profile, in which tasks will run."""
    with working_in_image_of(profile), Run.locked(root, config, read=renewed) as run:
        yield run


def submit(
    config: RunConfig,
    runs: Path,
    cluster: str,
    only: str | None = None,
    *,
    auto_resume: int | None = None,
    consent: Consent = NOTHING_ELSE,
) -> Sent:
    """Send the jobs of a run that are not in the queue. Safe to call again at any time, also while they run.

    `auto_resume`: and a last one, which resumes the run when the others have ended, so many times. Raises UserError if
    a stage was planned otherwise than it would be now, unless `consent` says that this is fine.
    """
    root, profile = (runs / config.name).absolute(), load_profile(cluster)
    config = going_on(config, root)
    with locked_for(profile, root, resolved(config)) as run:
        notes = checked_origin(run, config, profile, consent)
        _may_resume(run, profile, auto_resume, config.stage(only).name if only else None)
        sent = send_rest(run, config, profile, cluster_name(cluster), Path.cwd(), only)
        return replace(sent, notes=[*notes, *sent.notes])


def checked_origin(run: Run, config: RunConfig, profile: ClusterProfile, consent: Consent) -> list[str]:
    """`check_origin` of a run that may have jobs in the queue: no stage is set aside under them."""
    if consent.inputs:
        _refuse_while_queued(run, profile)
    return check_origin(run, config, consent)


def _refuse_while_queued(run: Run, profile: ClusterProfile) -> None:
    live = live_ids(run, queue_of(run, profile)) if profile.scheduler == "slurm" else []
    if live:
        raise UserError(
            f"jobs of this run are in the queue, and --take-inputs sets aside what they work on: {', '.join(live)}",
            where=str(run.root),
            mend=f"`cxr cancel {run.root}` first, or wait for them",
        )


def resume(
    root: Path,
    cluster: str | None,
    *,
    if_needed: bool = False,
    retry_parked: bool = False,
    auto_resume: int | None = None,
    consent: Consent = NOTHING_ELSE,
) -> Sent:
    """Send new jobs for exactly what has no receipt, to the cluster of the last submit unless another is named; in a
    run of which another user made a part, it must be.

    Shards that are parked are left out unless `retry_parked`. Raises UserError if jobs of the run are still in the
    queue, unless `if_needed` says that this is fine, if the run's budget is used up, and if what was sent last died
    before it began, unless `retry_parked`.
    """
    opened = Run.open(root.absolute())
    config = config_of(opened)
    name, cwd = where_sent(opened, cluster)
    profile = load_profile(name)
    with locked_for(profile, opened.root, resolved(config)) as run:
        live, notes = _live(run, profile) if profile.scheduler == "slurm" else ([], [])
        if live:
            if if_needed:
                return Sent((), live, notes)
            raise UserError(
                f"jobs of this run are still in the queue: {', '.join(live)}",
                where=str(root),
                mend=f"wait for them, or `cxr cancel {root}` first; with --if-needed this is no error",
            )
        if retry_parked:
            for stage in config.stages:
                release(run.stage(stage.name).path)
                release_unstarted(run.stage(stage.name))
        notes = [*notes, *check_origin(run, config, consent)]
        _may_resume(run, profile, auto_resume)
        sent = send_rest(run, config, profile, cluster_name(name), cwd)
        return replace(sent, notes=[*notes, *sent.notes])


def queue_of(run: Run, profile: ClusterProfile | None) -> dict[str, str]:
    """Job name -> job id of what is in the queues to which jobs of a run were sent, and in that of the profile."""
    return queued(clusters_of(run) | ({profile.clusters or ""} if profile else set()))


def _live(run: Run, profile: ClusterProfile) -> tuple[list[str], list[str]]:
    """Jobs of a run that are in the queue and will end, and what was said of those that were cancelled for they never
    would."""
    live = live_ids(run, queue_of(run, profile))
    notes = drop_unlaunched(run, live)
    return live_ids(run, queue_of(run, profile)) if notes else live, notes


def _check_reach(live: Sequence[str], profile: ClusterProfile) -> None:
    """Raise UserError if what is sent now would wait for jobs of another cluster, whose end it would never see."""
    others = [job for job in live if cluster_of(job) != (profile.clusters or "")]
    if others:
        where = cluster_of(others[0])
        raise UserError(
            f"jobs of this run are in the queue of {f'cluster {where}' if where else 'the cluster of this machine'}: "
            f"{', '.join(others)}",
            where=f"profile {profile.name!r} with clusters: {profile.clusters or '(not set)'}",
            mend=f"set `clusters: {where}` in the profile, wait for them, or cancel them first"
            if where
            else "wait for them, or cancel them first",
        )


def _may_resume(run: Run, profile: ClusterProfile, most: int | None, stage: str | None = None) -> None:
    if most is None:
        return
    if profile.scheduler != "slurm":
        raise UserError(
            f"profile {profile.name!r} has no scheduler that could resume the run",
            mend="leave out --auto-resume; the same command again goes on",
        )
    AutoResume(most, stage).write(run.root)


def cancel_run(root: Path, cluster: str | None = None) -> list[str]:
    """Cancel the jobs of a run that are in the queue and return their ids. `cluster` names a profile by hand.

    Raises UserError if none is found and the profile, which may name another cluster, cannot be read.
    """
    run = Run.open(root.absolute())
    profile, trouble = _profile_of(run, cluster)
    live = live_ids(run, queue_of(run, profile))
    if live:
        cancel(live)
    elif trouble:
        raise trouble
    return live


def _profile_of(run: Run, cluster: str | None) -> tuple[ClusterProfile | None, UserError | None]:
    """The profile of the last submit, or what is wrong with it. What was sent can be cancelled without it: each record
    says where it went, but those of older versions. A profile that is there no more is nothing wrong."""
    try:
        name = str(find_profile(where_sent(run, cluster)[0]))
    except UserError:
        return None, None
    try:
        return load_profile(name), None
    except UserError as error:
        return None, error


def send_rest(
    run: Run, config: RunConfig, profile: ClusterProfile, cluster: str, cwd: Path, only: str | None = None
) -> Sent:
    """Send what is left and not in the queue, and behind it the job that resumes the run, if it may do so."""
    is_slurm = profile.scheduler == "slurm"
    if is_slurm:
        refresh(run, max_age=0)
    following = what_follows(run)
    notes = park(run, following)
    Ledger(following.attempts).check_budget(config.budget_gpu_hours)
    queue = queue_of(run, profile) if is_slurm else {}
    live = live_ids(run, queue)
    _check_reach(live, profile)
    notes += refuse_recurring(run, following, queue) if is_slurm else []
    freeze_roots(run, config, profile)
    works, hopeless = possible(works_of(run, config, queue, only))
    works, changes = asking_otherwise(works, profile, following)
    jobs = plan_jobs(works, profile, num_queued=num_queued(profile.clusters) if is_slurm else 0)
    launch = launch_of(run, profile, cluster, cwd)
    if not is_slurm:
        do_here(launch, jobs)
        return Sent([(job, "here") for job in jobs], live, [*notes, *hopeless])
    jobs += _tail(run, jobs, live, queue)
    return Sent(send(launch, jobs), live, [*map(str, notes_on(profile)), *notes, *hopeless, *changes])


def what_follows(run: Run) -> FollowUp:
    """From how the attempts of a run ended until now."""
    return follow_up(facts_of_run(run), time.time())


def _tail(run: Run, jobs: Sequence[Job], live: Sequence[str], queue: Mapping[str, str]) -> list[Job]:
    """The job that resumes the run when all its other jobs have ended; none if it is in the queue, or is not wanted."""
    resumes = own_resumes(run)
    waiting = [job for job in live_jobs(run, FOLDER, queue) if not _is_asking(job)]
    if resumes is None or resumes.outcome or waiting or not (jobs or live):
        return []
    nothing = StageWork(FOLDER, "control", threads=1, num_items=0, num_shards=0)
    return [Job(nothing, ("resume",), after=(*range(len(jobs)), *live))]


def own_resumes(run: Run) -> AutoResume | None:
    """How often the run may resume itself, if this user said so: what a colleague allows sends no jobs of mine."""
    resumes = AutoResume.read(run.root)
    return resumes if resumes and is_mine(path_of(run.root)) else None


def freeze_roots(run: Run, config: RunConfig, profile: ClusterProfile) -> None:
    """Stages that need no other are planned at once, so that mistakes in them show before anything waits in a queue.

    The plan's fingerprint holds the image: one that is to be used in a container is frozen in it.
    """
    names = {stage.name for stage in config.stages}
    for stage in config.stages:
        if profile.container is None and not names & set(inputs_of(stage).values()):
            freeze(prepare(run, config, stage.name))


def launch_of(run: Run, profile: ClusterProfile, cluster: str, cwd: Path) -> Launch:
    found = image_of(profile)
    if found is None:
        return Launch(run, profile, cluster, cwd, [sys.executable], code_folder())
    python = [*prefix(found, profile, run.root, cwd), "python"]
    return Launch(run, profile, cluster, cwd, python, None, prelude(found, profile))


def cluster_name(given: str) -> str:
    """A profile named by a path is found again from elsewhere."""
    path = expanded(given).absolute()
    return str(path) if path.is_file() else given


def live_ids(run: Run, queue: Mapping[str, str]) -> list[str]:
    """Jobs of a run that are in the queue: the one that resumes it first, so that it is cancelled before the others
    set it free. A job that asks is not among them."""
    names = [FOLDER, *(stage["name"] for stage in run.config["stages"])]
    return [job for name in names for job in live_jobs(run, name, queue) if not _is_asking(job)]


def _is_asking(job: str) -> bool:
    """Whether it is the job in which we are."""
    is_there = cluster_of(job) in ("", os.environ.get("SLURM_CLUSTER_NAME"))
    return is_there and number_of(job) == os.environ.get("SLURM_ARRAY_JOB_ID")

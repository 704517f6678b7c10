"""A run on a cluster: the jobs for what is left of its stages, sending them, and which of them are in the queue."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.home import expanded
from cxr_core.runs.facts import facts_of_run
from cxr_core.runs.follow_up import FollowUp, follow_up
from cxr_core.runs.ledger import Ledger
from cxr_core.runs.pack import freeze
from cxr_core.runs.resumes import FOLDER, AutoResume, path_of
from cxr_core.runs.run import Run
from jobs.config import RunConfig, in_current_keys
from jobs.container import image_of, prefix, prelude, working_in_image_of
from jobs.inputs import inputs_of
from jobs.launch import prepare
from jobs.origin import Consent, check_origin
from jobs.remaining import asking_otherwise, park, possible, refuse_recurring, works_of
from jobs.submitter import is_mine
from slurm.accounting import refresh
from slurm.grammar import cluster_of, number_of
from slurm.notes import notes_on
from slurm.packs import Job, StageWork, plan_jobs
from slurm.profile import ClusterProfile
from slurm.queue import num_queued, queued
from slurm.submit import Launch, clusters_of, code_folder, do_here, live_jobs, send

_TASK = ("-m", "jobs.task")


@dataclass(frozen=True)
class Sent:
    """What a submit or resume did: jobs with their ids, in order, the jobs that were in the queue before, and lines
    about what was decided by itself: shards parked, nodes left out, memory raised."""

    jobs: Sequence[tuple[Job, str]]
    live: Sequence[str]
    notes: Sequence[str] = ()


@contextmanager
def locked_for(profile: ClusterProfile, root: Path, config: Mapping[str, Any]) -> Iterator[Run]:
    """The run, under its lock; what is recorded inside names the image of the profile, in which tasks will run."""
    with working_in_image_of(profile), Run.locked(root, config, read=in_current_keys) as run:
        yield run


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
            hint=f"`cxr cancel {run.root}` first, or wait for them",
        )


def queue_of(run: Run, profile: ClusterProfile | None) -> dict[str, str]:
    """Job name -> job id of what is in the queues to which jobs of a run were sent, and in that of the profile."""
    return queued(clusters_of(run) | ({profile.clusters or ""} if profile else set()))


def _check_reach(live: Sequence[str], profile: ClusterProfile) -> None:
    """Raise UserError if what is sent now would wait for jobs of another cluster, whose end it would never see."""
    others = [job for job in live if cluster_of(job) != (profile.clusters or "")]
    if others:
        where = cluster_of(others[0])
        raise UserError(
            f"jobs of this run are in the queue of {f'cluster {where}' if where else 'the cluster of this machine'}: "
            f"{', '.join(others)}",
            where=f"profile {profile.name!r} with clusters: {profile.clusters or '(not set)'}",
            hint=f"set `clusters: {where}` in the profile, wait for them, or cancel them first"
            if where
            else "wait for them, or cancel them first",
        )


def send_rest(
    run: Run,
    config: RunConfig,
    profile: ClusterProfile,
    cluster: str,
    cwd: Path,
    only: str | None = None,
    *,
    resumer: Sequence[str],
) -> Sent:
    """Send what is left and not in the queue, and behind it the job that resumes the run, if it may do so.

    `resumer` starts the command line of that job.
    """
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
    launch = launch_of(run, profile, cluster, cwd, resumer)
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


def launch_of(run: Run, profile: ClusterProfile, cluster: str, cwd: Path, resumer: Sequence[str] = ()) -> Launch:
    found = image_of(profile)
    if found is None:
        return Launch(run, profile, cluster, cwd, [sys.executable, *_TASK], code_folder(), resumer=resumer)
    task = [*prefix(found, profile, run.root, cwd), "python", *_TASK]
    return Launch(run, profile, cluster, cwd, task, None, prelude(found, profile), resumer)


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

"""What a user asks of a run on a cluster: to see the jobs, to send, to resume and to cancel them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.failures import release
from cxr_core.runs.resumes import AutoResume
from cxr_core.runs.run import Run
from jobs.auto_resume import RESUMER
from jobs.cluster import (
    Sent,
    checked_origin,
    cluster_name,
    launch_of,
    live_ids,
    locked_for,
    queue_of,
    send_rest,
    what_follows,
)
from jobs.config import RunConfig, config_of, continued, resolved
from jobs.container import copies, image_of
from jobs.origin import NOTHING_ELSE, Consent, check_origin
from jobs.remaining import asking_otherwise, possible, release_unstarted, works_of
from jobs.submitter import where_sent
from slurm.notes import notes_on
from slurm.packs import Job, StageWork, plan_jobs
from slurm.profile import ClusterProfile, find_profile, load_profile
from slurm.queue import cancel
from slurm.submit import Launch, drop_unlaunched, record, script_text


@dataclass(frozen=True)
class SubmitPreview:
    """What a submit would do."""

    works: Sequence[StageWork]
    jobs: Sequence[Job]
    scripts: Sequence[str]
    profile: ClusterProfile
    image: str = ""
    """What bringing the container's image to the nodes costs, in words."""
    notes: Sequence[str] = ()
    """What in the profile may mean another thing than was meant."""


def preview(config: RunConfig, runs: Path, cluster: str, only: str | None = None) -> SubmitPreview:
    """The jobs of a run and their scripts, with letters for what only the scheduler knows. Sends and writes nothing."""
    profile = load_profile(cluster)
    root = (runs / config.name).absolute()
    config = continued(config, root)
    run = Run.open(root) if (root / "config.yaml").exists() else Run(root, resolved(config))
    works = [_as_if_frozen(work, profile) for work in works_of(run, config, {}, only)]
    works, _ = asking_otherwise(possible(works)[0], profile, what_follows(run))
    jobs = plan_jobs(works, profile)
    launch = launch_of(run, profile, cluster, Path.cwd())
    scripts = [_preview_script(launch, jobs, i) for i in range(len(jobs))]
    return SubmitPreview(works, jobs, scripts, profile, _copies(profile, jobs), list(map(str, notes_on(profile))))


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
    config = continued(config, root)
    with locked_for(profile, root, resolved(config)) as run:
        notes = checked_origin(run, config, profile, consent)
        _may_resume(run, profile, auto_resume, config.stage(only).name if only else None)
        sent = send_rest(run, config, profile, cluster_name(cluster), Path.cwd(), only, resumer=RESUMER)
        return replace(sent, notes=[*notes, *sent.notes])


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
                hint=f"wait for them, or `cxr cancel {root}` first; with --if-needed this is no error",
            )
        if retry_parked:
            for stage in config.stages:
                release(run.stage(stage.name).path)
                release_unstarted(run.stage(stage.name))
        notes = [*notes, *check_origin(run, config, consent)]
        _may_resume(run, profile, auto_resume)
        sent = send_rest(run, config, profile, cluster_name(name), cwd, resumer=RESUMER)
        return replace(sent, notes=[*notes, *sent.notes])


def _live(run: Run, profile: ClusterProfile) -> tuple[list[str], list[str]]:
    """Jobs of a run that are in the queue and will end, and what was said of those that were cancelled for they never
    would."""
    live = live_ids(run, queue_of(run, profile))
    notes = drop_unlaunched(run, live)
    return live_ids(run, queue_of(run, profile)) if notes else live, notes


def _may_resume(run: Run, profile: ClusterProfile, most: int | None, stage: str | None = None) -> None:
    if most is None:
        return
    if profile.scheduler != "slurm":
        raise UserError(
            f"profile {profile.name!r} has no scheduler that could resume the run",
            hint="leave out --auto-resume; the same command again goes on",
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

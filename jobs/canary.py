"""`cxr submit --canary`: one shard of each stage that needs no other goes first, and its time prices the rest.

It goes through image, binds and node like all others, and its receipt counts. Of a training, whose first shard may take
hours, ten steps are tried in a folder of their own. If one fails, nothing else is sent.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.failures import failures_of
from cxr_core.runs.files import read_json
from cxr_core.runs.ledger import AttemptRecord, read_attempts, read_ledger
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Submit, submit_folders
from cxr_core.shown import say
from jobs.cluster import checked_origin, cluster_name, freeze_roots, launch_of, locked_for, queue_of
from jobs.config import RunConfig, continued, resolved
from jobs.origin import NOTHING_ELSE, Consent
from jobs.remaining import works_of
from jobs.task import REHEARSAL, wait_until
from slurm.packs import Job, StageWork
from slurm.profile import ClusterProfile, load_profile
from slurm.queue import state_of
from slurm.submit import do_here, send

_PENDING = 3600.0
"""Seconds that it may wait for a node."""

_POLLS = (2.0, 30.0)
"""Seconds between two looks, at first and at last."""


@dataclass(frozen=True)
class Canary:
    """One stage tried: seconds measured and guessed of a shard (of a step, where ten steps of a training were tried),
    and the node."""

    stage: str
    what: str
    measured: float
    guess: float
    node: str


def run_canaries(
    config: RunConfig, runs: Path, cluster: str, only: str | None = None, *, consent: Consent = NOTHING_ELSE
) -> list[Canary]:
    """Send the canaries of a run, wait for them, and return what they measured; none where shards are done already.

    Raises UserError with the cause and the log if one fails, or if it has not begun within an hour. Called again, it
    waits for those that are in the queue.
    """
    root, profile = (runs / config.name).absolute(), load_profile(cluster)
    is_slurm = profile.scheduler == "slurm"
    config = continued(config, root)
    with locked_for(profile, root, resolved(config)) as run:
        for note in checked_origin(run, config, profile, consent):
            say(note)
        read_ledger(run).check_budget(config.budget_gpu_hours)
        freeze_roots(run, config, profile)
        queue = queue_of(run, profile) if is_slurm else {}
        works = [work for work in works_of(run, config, queue, only) if _needs_one(work)]
        flying = {job_id: work for work in works for job_id in work.jobs}
        launch = launch_of(run, profile, cluster_name(cluster), Path.cwd())
        jobs = [Job(work, ("canary",), packs=[list(work.todo or ())[:1]]) for work in works if not work.jobs]
        if is_slurm:
            flying |= {job_id: job.work for job, job_id in send(launch, jobs)}
        else:
            do_here(launch, jobs)
    for job_id, work in flying.items():
        _wait(work.name, job_id)
    return [_landed(run.stage(work.name), work, profile) for work in works]


def _needs_one(work: StageWork) -> bool:
    """Whether nothing is known yet of a stage that could begin at once, and no other job of it is on its way."""
    can_begin = not work.upstream and not work.finished and work.num_left > 0
    return can_begin and work.seconds is None and all(set(parts) == {"canary"} for parts in work.jobs.values())


def _wait(stage: str, job_id: str) -> None:
    """Until the job has left the queue. Says how it is whenever that changes."""
    pause, begun, told = _POLLS[0], time.monotonic(), ""
    while state := state_of(job_id):
        if state != told:
            say(f"canary of {stage}: job {job_id} is {state}")
        told = state
        if state.startswith("PENDING") and time.monotonic() - begun > _PENDING:
            raise UserError(
                f"the canary of stage {stage!r} has not begun within an hour: job {job_id} is {state}",
                hint="nothing else was sent; type the same command again to wait on, or leave --canary out",
            )
        time.sleep(pause)
        pause = min(1.5 * pause, _POLLS[1])


def _landed(folder: StageFolder, work: StageWork, profile: ClusterProfile) -> Canary:
    """What it measured. Raises UserError if it made nothing."""
    submit = submit_folders(folder.path)[-1]
    rehearsal = submit / REHEARSAL
    if not wait_until(lambda: bool(folder.done()) or rehearsal.exists(), profile.visible_seconds):
        raise _failed(folder, submit)
    resources = work.resources(profile)
    if rehearsal.exists():
        told = read_json(rehearsal)
        seconds = told["seconds"] / told["steps"]
        return Canary(work.name, "a step", seconds, resources.seconds_per_item, told["node"])
    receipt = folder.receipts()[0]
    seconds = receipt.seconds["make"] + receipt.seconds["place"]
    attempt = next((each for each in read_attempts(folder.path) if each.id == receipt.attempt), None)
    return Canary(work.name, "a shard", seconds, work.shard_seconds(resources), attempt.node if attempt else "")


def _failed(folder: StageFolder, submit: Path) -> UserError:
    """Why a canary made nothing: by its attempt, else by the end of its log."""
    job_id = Submit.read(submit).job_id
    attempts = [attempt for attempt in read_attempts(folder.path) if attempt.job == f"{job_id}_0"]
    log = next(iter(sorted(submit.glob("*.out"))), submit)
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    said = _cause(folder, attempts[-1]) if attempts else "; ".join(lines[-3:]) or "its job left no word"
    return UserError(
        f"the canary of stage {folder.name!r} failed: {said}",
        where=str(log),
        hint="nothing else was sent; fix the cause and type the same command again",
    )


def _cause(folder: StageFolder, attempt: AttemptRecord) -> str:
    plan = folder.plan()
    recorded = failures_of(folder.path, plan.shards[0].id) if plan else []
    failures = [failure for failure in recorded if failure.attempt == attempt.id]
    return (
        failures[-1].text if failures else ": ".join(filter(None, (attempt.cause or attempt.outcome, attempt.detail)))
    )

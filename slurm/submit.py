"""Send jobs to a cluster, record each before and after, and know again what was sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cxr_core
from cxr_core.errors import UserError
from cxr_core.runs.causes import LAUNCH_FAILED
from cxr_core.runs.evidence import note_failed_launch
from cxr_core.runs.provenance import now
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Part, Submit, new_folder, new_id, submit_folders, submits_of_run
from slurm.grammar import number_of
from slurm.packs import Job
from slurm.profile import ClusterProfile
from slurm.queue import cancel, waiting
from slurm.script import Payload, directives, local_body, script, shell_body

_NUM_LINES = 8
"""Last lines of a log that an error shows."""


@dataclass(frozen=True)
class Launch:
    """What all submits of one call share: run, profile and how it was named, and the start of two command lines.

    `task` is that of a task, which may be in a container; `resumer` that of the job which resumes the run, which is in
    none, for no sbatch is there. `prelude` are lines of shell that a node needs before the work, such as those that
    bring a container's image.
    """

    run: Run
    profile: ClusterProfile
    cluster: str
    cwd: Path
    task: Sequence[str]
    code: Path | None
    prelude: Sequence[str] = ()
    resumer: Sequence[str] = ()

    def payload(self, job: Job, folder: Path) -> Payload:
        if "resume" in job.does:
            # The profile is the one that the user named, whatever the folder says by then.
            words = [*self.resumer, str(self.run.root), self.cluster]
            return Payload(words, folder, self.cwd, code_folder(), has_heart=False, in_step=False)
        words = [*self.task, str(self.run.root), job.work.name, folder.name]
        return Payload(
            words,
            folder,
            self.cwd,
            self.code,
            self.prelude,
            has_heart=job.computes,
            nodes=job.nodes,
            ranks_per_node=job.ranks_per_node,
        )


def code_folder() -> Path | None:
    """The folder that tasks must be told of to find this code: that of a checkout, not of an installation."""
    folder = Path(cxr_core.__file__).absolute().parents[1]
    return None if folder.name in ("site-packages", "dist-packages") else folder


def live_jobs(run: Run, stage: str, queue: Mapping[str, str]) -> dict[str, tuple[Part, ...]]:
    """Job id -> what it does, of the submits of a stage that are in the queue.

    A submit whose answer was lost is found by its name, and its record completed.
    """
    found: dict[str, tuple[Part, ...]] = {}
    for folder in submit_folders(run.stage(stage).path):
        submit = Submit.read(folder)
        job_id = queue.get(submit.job_name(run.config["name"]))
        if job_id is not None:
            found[job_id] = submit.does
            # Older records do not say in which cluster it is.
            if submit != submit.sent(job_id):
                submit.sent(job_id).write(folder)
    return found


def clusters_of(run: Run) -> set[str]:
    """The clusters to which jobs of a run were sent, by their records; "" is the one that Slurm asks by itself."""
    return {submit.slurm_cluster for submit in submits_of_run(run.root).values()}


def drop_unlaunched(run: Run, live: Sequence[str]) -> list[str]:
    """Cancel those tasks of the jobs `live` of a run that Slurm holds for ever, since it could not launch them, so that
    others can be sent; and the jobs that wait for nothing else. Returns a line about each task.

    They are not released: a user may be forbidden that, and may always cancel.
    """
    tasks = waiting(live) if live else []
    never = [task for task in tasks if task.is_held]
    if not never:
        return []
    is_stuck = all(task.is_held or task.waits_for_others for task in tasks)
    cancel(live if is_stuck else [task.id for task in never])
    folders = {(submit.job_id, submit.slurm_cluster): folder for folder, submit in submits_of_run(run.root).items()}
    for task in never:
        note_failed_launch(folders[task.task.partition("_")[0], task.cluster], task.task, task.restart)
    return [f"task {task.id} was held by the scheduler, and is cancelled: {LAUNCH_FAILED}" for task in never]


def script_text(launch: Launch, job: Job, folder: Path, submit: Submit) -> str:
    """The exact text of the batch script of `job`."""
    parameters, body = _parts(launch, job, folder, submit)
    return script(parameters, body)


def send(launch: Launch, jobs: Sequence[Job]) -> list[tuple[Job, str]]:
    """Submit `jobs` in order and return each with its job id.

    What was sent before a refusal stays sent: calling again sends the rest.
    """
    from slurm.executor import BatchExecutor, clean_environment

    ids: list[str] = []
    for job in jobs:
        folder = new_folder(launch.run.stage(job.work.name).path)
        submit = record(launch, job, waits_for=_ids(job, ids))
        submit.write(folder)
        parameters, body = _parts(launch, job, folder, submit)
        name = submit.job_name(launch.run.config["name"])
        executor = BatchExecutor(folder, name, clean_environment(launch.profile), cluster=submit.slurm_cluster)
        executor.update_parameters(**parameters)
        ids.append(executor.submit_body(body))
        submit.sent(ids[-1]).write(folder)
    return list(zip(jobs, ids, strict=True))


def do_here(launch: Launch, jobs: Sequence[Job]) -> None:
    """Do `jobs` in order as processes of this machine. Raises UserError naming a log if tasks of one failed."""
    from slurm.executor import clean_environment
    from slurm.local import at_once, log_of, run_tasks

    environ = clean_environment(launch.profile)
    for number, job in enumerate(jobs):
        folder = new_folder(launch.run.stage(job.work.name).path)
        record(launch, job, waits_for=[f"local{i}" for i in range(number)]).sent(f"local{number}").write(folder)
        parallel = at_once(launch.profile.array_parallelism, job.cpus(launch.profile))
        payload = _in_shell(launch, launch.payload(job, folder), job)
        threads = {"OMP_NUM_THREADS": str(job.cpus(launch.profile))}
        failed = run_tasks(payload, job.num_tasks, parallel=parallel, environ={**environ, **threads})
        if failed:
            first, status = next(iter(failed.items()))
            log = log_of(payload, first)
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise UserError(
                f"stage {job.work.name!r}: {len(failed)} of {job.num_tasks} tasks failed; the log of the first, which "
                f"ended with exit status {status}, ends:\n    " + "\n    ".join(lines[-_NUM_LINES:]),
                where=str(log),
                hint="fix the cause; the same command again does what is left",
            )


def _in_shell(launch: Launch, payload: Payload, job: Job) -> Payload:
    """The payload within the lines of the profile, where it has any."""
    profile = launch.profile
    if not (profile.setup or profile.caches or profile.scratch or payload.prelude):
        return payload
    return replace(payload, words=["bash", "-c", local_body(profile, payload, cpus=job.cpus(profile))])


def record(launch: Launch, job: Job, *, waits_for: Sequence[str]) -> Submit:
    """What submit.json says of `job`."""
    resources = job.resources(launch.profile).model_dump(mode="json", exclude_none=True)
    return Submit(
        id=new_id(),
        stage=job.work.name,
        does=job.does,
        num_tasks=job.num_tasks,
        cluster=launch.cluster,
        cwd=str(launch.cwd),
        packs=job.packs,
        resources={**resources, "cpus_per_task": job.cpus(launch.profile)},
        visible_seconds=launch.profile.visible_seconds,
        waits_for=tuple(waits_for),
        raised=job.changes,
        time=now(),
        slurm_cluster=launch.profile.clusters or "",
    )


def _parts(launch: Launch, job: Job, folder: Path, submit: Submit) -> tuple[dict[str, object], str]:
    cpus = job.cpus(launch.profile)
    name = submit.job_name(launch.run.config["name"])
    resources = job.resources(launch.profile)
    ranks = {"nodes": job.nodes, "ranks_per_node": job.ranks_per_node}
    parameters = directives(launch.profile, resources, name=name, submit=submit, cpus=cpus, folder=folder, **ranks)
    return parameters, shell_body(launch.profile, launch.payload(job, folder), cpus=cpus, hours=resources.hours)


def _ids(job: Job, sent: Sequence[str]) -> list[str]:
    return [number_of(sent[each] if isinstance(each, int) else each) for each in job.after]

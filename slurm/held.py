"""Tasks that Slurm holds for ever, since it could not launch them: cancelled, so that others can be sent."""

from collections.abc import Sequence

from cxr_core.runs.ends import LAUNCH_FAILED, note_failed_launch
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, submits_of_run
from slurm.queue import cancel, waiting


def drop_held(run: Run, live: Sequence[str]) -> list[str]:
    """Cancel those tasks of the jobs `live` of a run that will never start, and with them the jobs that wait for
    nothing else; returns a line about each task.

    They are not released: a user may be forbidden that, and may always cancel.
    """
    tasks = waiting(live) if live else []
    held = [task for task in tasks if task.is_held]
    if not held:
        return []
    is_stuck = all(task.is_held or task.waits_for_others for task in tasks)
    cancel(live if is_stuck else [task.id for task in held])
    folders = {_place(submit): folder for folder, submit in submits_of_run(run.root).items()}
    for task in held:
        note_failed_launch(folders[task.task.partition("_")[0], task.cluster], task.task, task.restart)
    return [f"task {task.id} was held by the scheduler, and is cancelled: {LAUNCH_FAILED}" for task in held]


def _place(submit: Submit) -> tuple[str | None, str]:
    return submit.job_id, submit.slurm_cluster

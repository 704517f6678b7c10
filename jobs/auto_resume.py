"""The last job of a run that resumes itself: `python -m jobs.auto_resume RUN PROFILE`, when all others have ended.

It sends what is left and, behind that, itself again, until everything is done, nothing more can be done, the budget is
used up, or it did so as often as it may. How it ended is in the run folder (`cxr_core.runs.resumes`).
"""

import signal
import sys
import time
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.log import fail, room_log, show_log
from cxr_core.runs.resumes import AutoResume
from cxr_core.runs.run import Run, RunHeldError
from cxr_core.shown import say
from jobs.cluster import Sent, locked_for, own_resumes, send_rest
from jobs.config import config_of, resolved
from jobs.environment import prepare_environment, tell_the_shell
from jobs.origin import check_origin
from jobs.submitter import where_sent
from jobs.task import wait_until
from slurm.profile import load_profile

log = room_log("jobs.auto_resume")  # whose name as a program is another

RESUMER = (sys.executable, "-m", "jobs.auto_resume")
"""Starts the command line of this job, which sends itself again. It is not in a container, where no sbatch is."""
_PATIENCE = 600.0
"""Seconds for which another launcher, a person's say, may hold the run."""


def resume_itself(root: Path, cluster: str | None) -> str:
    """Resume the run once more if there is need, by the profile that the user named. Returns what was done, in words.

    Jobs of older versions do not name it: then it is that of the last submit, as for `cxr resume RUN`.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _resume(root, cluster)
        except RunHeldError:
            if time.monotonic() > deadline:
                raise
            time.sleep(5)


def _resume(root: Path, cluster: str | None) -> str:
    opened = Run.open(root)
    config = config_of(opened)
    name, cwd = where_sent(opened, cluster)
    profile = load_profile(name)
    with locked_for(profile, root, resolved(config)) as run:
        resumes = own_resumes(run)
        if resumes is None or resumes.outcome:
            return "it is not wanted any more"
        stages = [resumes.stage] if resumes.stage else [stage.name for stage in config.stages]
        if wait_until(lambda: all(_is_done(run, stage) for stage in stages), profile.visible_seconds):
            return _end(root, resumes, "everything is done")
        if not resumes.num_left:
            return _end(root, resumes, f"it resumed {resumes.most} times, as often as it may, and is not done")
        try:
            check_origin(run, config)
            sent = send_rest(run, config, profile, name, cwd, resumes.stage, resumer=RESUMER)
        except UserError as error:
            _end(root, resumes, f"{error.what} (`cxr resume {root} --if-needed` goes on, by cron say)")
            raise
        return _in_words(root, resumes, sent)


def _is_done(run: Run, stage: str) -> bool:
    return (run.stage(stage).path / "stage.json").exists()


def _in_words(root: Path, resumes: AutoResume, sent: Sent) -> str:
    notes = "; ".join(sent.notes)
    work = [job_id for job, job_id in sent.jobs if "resume" not in job.does]
    if work:
        resumes.once_more().write(root)
        return f"sent {', '.join(work)}{'; ' * bool(notes)}{notes}"
    if sent.live:
        return f"others are in the queue: {', '.join(sent.live)}"
    return _end(root, resumes, f"nothing more can be done: {notes}")


def _end(root: Path, resumes: AutoResume, outcome: str) -> str:
    resumes.ended(outcome).write(root)
    return outcome


def main(root: Path, cluster: str | None = None) -> int:
    """Returns the exit status: 2 where it could not go on."""
    tell_the_shell()
    show_log()
    # The seconds that this takes are given before a job is killed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prepare_environment()
    try:
        say(f"auto-resume: {resume_itself(root, cluster)}")
    except UserError as error:
        fail(log, str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:3]))

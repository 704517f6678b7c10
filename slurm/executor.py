"""submitit's SlurmExecutor with another command: nothing is pickled, and a lost answer of sbatch loses no job."""

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from submitit.slurm.slurm import SlurmExecutor

from cxr_core.errors import UserError
from cxr_core.runs.files import write_atomic
from slurm.checks.ask import ACCESS_VARIABLES, NO_CLUSTER
from slurm.grammar import answered
from slurm.profile import ClusterProfile
from slurm.queue import call, queued

SCRIPT = "script.sbatch"

_KEPT = re.compile("|".join(("PATH|HOME|USER|LOGNAME|SHELL|LANG|TZ", r"LC_\w+", *ACCESS_VARIABLES)))
"""What sbatch and the tasks see of the caller's environment: no SLURM_ variable of a job in which we may run."""

_OF_THE_SITE = re.compile(r"BASH_ENV|BASH_FUNC_.+|MODULE(PATH|SHOME|S_)\w*|LMOD_(?!FAMILY_)\w+")
"""And what `module` and other functions of the caller's shell are made of, where tasks call them in `setup`; but not
what is loaded: that is for `setup` to say."""

_TRANSIENT = re.compile(r"contact slurm controller|timed out|did not answer|temporarily|Connection refused", re.I)

_TRIES = 20
_PAUSE = 3.0
"""Seconds between two tries while the controller does not answer; together they outlast its restart."""


def clean_environment(profile: ClusterProfile, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What remains of `environ` (default: ours) where sbatch is called."""
    environ = os.environ if environ is None else environ
    kept = re.compile(f"{_KEPT.pattern}|{_OF_THE_SITE.pattern}") if profile.setup else _KEPT
    return {name: value for name, value in environ.items() if kept.fullmatch(name) or name in profile.env}


class BatchExecutor(SlurmExecutor):
    """Submits one script from one folder.

    `update_parameters` takes submitit's parameters. The folder then holds the script, and later the logs. `cluster` is
    the one that the script names, if any.
    """

    def __init__(self, folder: Path, job_name: str, environ: Mapping[str, str], *, cluster: str = "") -> None:
        super().__init__(folder)
        self.job_name, self.environ, self.cluster = job_name, dict(environ), cluster

    def submit_body(self, body: str) -> str:
        """Write the script around `body` and submit it once, whatever happens to sbatch's answer. Returns the job's id,
        with the cluster where sbatch names one.

        Raises UserError with the scheduler's words if it refuses.
        """
        text = self._make_submission_file_text(body, self.job_name)
        write_atomic(self.folder / SCRIPT, text)  # for people to read
        return self._sbatch(text)

    def _sbatch(self, text: str) -> str:
        # By --chdir the logs lie beside the script; its value may hold each character a folder's name can have. The
        # script goes through a pipe: who may write to the folder could put another in the place of the file.
        words = ["sbatch", f"--chdir={self.folder}"]
        for _ in range(_TRIES):
            answer = call(words, self.environ, text)
            job_id = answered(answer.stdout) if answer.returncode == 0 else None
            job_id = job_id or _settled(lambda: queued([self.cluster]).get(self.job_name))
            if job_id:
                return job_id
            if not _TRANSIENT.search(answer.stderr):
                break
            time.sleep(_PAUSE)
        raise UserError(
            f"sbatch: {answer.stderr.strip() or answer.stdout.strip() or 'no answer'}",
            where=str(self.folder / SCRIPT),
            hint=_hint(answer.stderr),
        )


def _hint(refusal: str) -> str:
    if "Invalid job array specification" in refusal:
        return "set `max_array_size` in the profile to MaxArraySize of `scontrol show config`: packs grow with it"
    if NO_CLUSTER in refusal:
        return "set `clusters` in the profile to a name that `sacctmgr show clusters` lists"
    return "correct the profile of the cluster (`cxr plan CONFIG --cluster NAME` shows the script)"


def _settled(find: Callable[[], str | None]) -> str | None:
    """Look twice: a controller that was too slow to answer may be about to accept the job."""
    found = find()
    if found is None:
        time.sleep(1)
        found = find()
    return found

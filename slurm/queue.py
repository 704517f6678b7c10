"""What the scheduler says of our jobs: one bounded call, and never taken for no jobs when it says nothing."""

import getpass
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cxr_core.errors import UserError
from slurm.checks.ask import ask

_PATIENCE = 90.0
"""Seconds for which a controller that does not answer is asked again; a restart of it takes less."""


def call(words: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm. Raises UserError where there is none."""
    try:
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise UserError(
            f"no command `{words[0]}` on this machine",
            mend="log in to a node from which jobs may be submitted, or take --cluster local",
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"{words[0]} did not answer in 60 s")


def queued(*, patience: float = _PATIENCE) -> dict[str, str]:
    """Job name -> job id (of an array the array's) of all jobs of this user that have not ended.

    Raises UserError if the scheduler does not answer within `patience` seconds.
    """
    words = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%F %j"]
    deadline = time.monotonic() + patience
    while (answer := call(words)).returncode:
        if time.monotonic() > deadline:
            raise UserError(
                f"the scheduler does not say which jobs there are: {answer.stderr.strip()}",
                mend="nothing was submitted that is not in the run folder; try again later",
            )
        time.sleep(2)
    lines = (line.strip().partition(" ") for line in answer.stdout.splitlines())
    return {name: job_id for job_id, _, name in lines if name}


def state_of(job_id: str) -> str:
    """State of a job of one task that has not ended, with the reason for which it waits: `PENDING (Priority)`.

    Empty once it is not in the queue any more. Raises UserError if the scheduler does not answer.
    """
    words = ["squeue", "--noheader", f"--jobs={job_id}", "--format=%T %r"]
    deadline = time.monotonic() + _PATIENCE
    while (answer := call(words)).returncode and "Invalid job id" not in answer.stderr:
        if time.monotonic() > deadline:
            mend = f"job {job_id} goes on without us; type the same command again"
            raise UserError(f"the scheduler does not say how job {job_id} is: {answer.stderr.strip()}", mend=mend)
        time.sleep(2)
    state, _, reason = answer.stdout.strip().partition(" ")
    return f"{state} ({reason})" if state == "PENDING" else state


@dataclass(frozen=True)
class Waiting:
    """A task that has not ended: how often it was restarted, and for what it waits (`None` once it runs)."""

    task: str
    restart: int
    reason: str

    @property
    def is_held(self) -> bool:
        """Whether Slurm holds it for ever, since it could not be launched on a node: the prolog failed there, say."""
        return self.reason == "launch failed requeued held"

    @property
    def waits_for_others(self) -> bool:
        return self.reason == "Dependency"


def waiting(job_ids: Iterable[str]) -> list[Waiting]:
    """Each task of jobs that has not ended; of an array that waits, what has not begun is one. Empty if the scheduler
    does not answer."""
    words = ["squeue", "--noheader", f"--jobs={','.join(job_ids)}", "--Format=JobArrayID:40,RestartCnt:12,Reason:80"]
    lines = (line.split(maxsplit=2) for line in call(words).stdout.splitlines())
    return [Waiting(task, int(restarts), reason.strip()) for task, restarts, reason in lines]


def num_queued() -> int:
    """How many tasks of this user the scheduler counts, each element of an array by itself."""
    answer = call(["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i"])
    return len(answer.stdout.split())


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs. Those that ended before are no error. Raises UserError if the scheduler refuses."""
    answer = call(["scancel", *job_ids])
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise UserError(f"scancel: {answer.stderr.strip()}", mend="try again, or cancel them yourself")


def num_nodes(partition: str | None) -> int:
    """How many nodes a partition has (the default one if None); 0 where the scheduler does not say."""
    chosen = [f"--partition={partition}"] if partition else []
    answer = ask("sinfo", "--noheader", "--Node", "--format=%N %P", *chosen, environ=os.environ)
    names = (line.split() for line in answer.out.splitlines())
    return len({name for name, part in names if partition or part.endswith("*")})

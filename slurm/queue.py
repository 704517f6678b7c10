"""What the scheduler says of our jobs: one bounded call, and never taken for no jobs when it says nothing.

A job is looked for in the cluster to which it was sent, which its id names where that is not the one that Slurm's
commands ask by themselves: `123;cluster`.
"""

import os
import pwd
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from cxr_core.errors import UserError
from slurm.checks.ask import NO_CLUSTER, CommandResult, ask, at, log_answer, scrubbed
from slurm.grammar import cluster_of, job_id, number_of

_PATIENCE = 90.0
"""Seconds for which a controller that does not answer is asked again; a restart of it takes less."""


def call(
    words: Sequence[str], environ: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm, which may read `text`, without the variables that would change what it does unless
    `environ` is given. Raises UserError where there is none."""
    environ = scrubbed(os.environ) if environ is None else environ
    start = time.monotonic()
    try:
        done = subprocess.run(words, env=environ, input=text, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise UserError(
            f"no command `{words[0]}` on this machine",
            hint="log in to a node from which jobs may be submitted, or take --cluster local",
        ) from None
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(words, 124, "", f"{words[0]} did not answer in 60 s")
    log_answer(words, CommandResult(done.returncode, done.stdout, done.stderr), time.monotonic() - start)
    return done


def queued(clusters: Iterable[str] = ("",), *, patience: float = _PATIENCE) -> dict[str, str]:
    """Job name -> job id (of an array the array's) of all jobs of this user that have not ended in some clusters.

    A cluster that is not there any more has none. Raises UserError if a scheduler does not answer within `patience`
    seconds.
    """
    found: dict[str, str] = {}
    for cluster in sorted(set(clusters)):
        words = at(cluster, "squeue", "--noheader", *_of_this_user(), "--format=%U %F %j")
        what, hint = "which jobs there are", "nothing was submitted that is not in the run folder; try again later"
        lines = (line.split(maxsplit=2) for line in _lines(_insist(words, NO_CLUSTER, what, hint, patience)))
        mine = (line for line in lines if line[0] == str(os.getuid()) and len(line) == 3)
        found |= {name: job_id(number, cluster) for _, number, name in mine}
    return found


def _of_this_user() -> list[str]:
    """By the number: names in the environment may be another's. Slurm knows only numbers that have a name, though."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return []
    return [f"--user={os.getuid()}"]


def _insist(words: Sequence[str], but: str, what: str, hint: str, patience: float) -> subprocess.CompletedProcess[str]:
    """Ask again while there is no answer; a refusal in the words `but` is one."""
    deadline = time.monotonic() + patience
    while (answer := call(words)).returncode and but not in answer.stderr:
        if time.monotonic() > deadline:
            raise UserError(f"the scheduler does not say {what}: {answer.stderr.strip()}", hint=hint)
        time.sleep(2)
    return answer


def _lines(answer: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of a list; some versions say above it of which cluster it is."""
    return [line.strip() for line in answer.stdout.splitlines() if line.strip() and not line.startswith("CLUSTER: ")]


def state_of(job: str) -> str:
    """State of a job of one task that has not ended, with the reason for which it waits: `PENDING (Priority)`.

    Empty once it is not in the queue any more. Raises UserError if the scheduler does not answer.
    """
    words = at(cluster_of(job), "squeue", "--noheader", f"--jobs={number_of(job)}", "--format=%T %r")
    hint = f"job {job} goes on without us; type the same command again"
    answer = _insist(words, "Invalid job id", f"how job {job} is", hint, _PATIENCE)
    state, _, reason = "".join(_lines(answer)[:1]).partition(" ")
    return f"{state} ({reason})" if state == "PENDING" else state


@dataclass(frozen=True)
class Waiting:
    """A task that has not ended: how often it was restarted, and for what it waits (`None` once it runs). `task` is
    `81_4`, of an array that waits `81_[5-9]`."""

    task: str
    restart: int
    reason: str
    cluster: str = ""

    @property
    def id(self) -> str:
        """By which it is cancelled."""
        return job_id(self.task, self.cluster)

    @property
    def is_held(self) -> bool:
        """Whether Slurm holds it for ever, since it could not be launched on a node: the prolog failed there, say."""
        return self.reason == "launch failed requeued held"

    @property
    def waits_for_others(self) -> bool:
        return self.reason == "Dependency"


def waiting(jobs: Iterable[str]) -> list[Waiting]:
    """Each task of jobs that has not ended; of an array that waits, what has not begun is one. Empty if the scheduler
    does not answer."""
    return [task for cluster, numbers in _by_cluster(jobs) for task in _waiting(cluster, numbers)]


def _waiting(cluster: str, numbers: Sequence[str]) -> Iterator[Waiting]:
    # The list of tasks of an array may be long, and a reason has spaces.
    fields = "--Format=JobArrayID:500|,RestartCnt:12|,Reason:200|"
    for line in _lines(call(at(cluster, "squeue", "--noheader", f"--jobs={','.join(numbers)}", fields))):
        task, restarts, reason = (field.strip() for field in line.split("|")[:3])
        yield Waiting(task, int(restarts), reason, cluster)


def _by_cluster(jobs: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Clusters with the numbers of the jobs there, in their order."""
    ordered = sorted(jobs, key=cluster_of)
    return [(cluster, [number_of(job) for job in some]) for cluster, some in groupby(ordered, key=cluster_of)]


def num_queued(cluster: str | None = None) -> int:
    """How many tasks of this user the scheduler counts, each element of an array by itself."""
    answer = call(at(cluster, "squeue", "--noheader", "--array", *_of_this_user(), "--format=%U"))
    return _lines(answer).count(str(os.getuid()))


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs, each in its cluster. Those that ended before are no error. Raises UserError if a scheduler
    refuses."""
    for cluster, numbers in _by_cluster(jobs):
        answer = call(at(cluster, "scancel", *numbers))
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise UserError(f"scancel: {answer.stderr.strip()}", hint="try again, or cancel them yourself")


def usable_nodes(partition: str | None, exclude: str | None, cluster: str | None) -> set[str]:
    """Nodes where a task may run by its partition (the default one if None) and `exclude`; none where the scheduler
    does not say."""
    chosen = [f"--partition={partition}"] if partition else []
    lines = [line.split() for line in _sinfo(cluster, "--format=%N %P", *chosen)]
    there = {name for name, found in lines if partition or found.endswith("*")}
    return there.difference(_sinfo(cluster, "--format=%N", f"--nodes={exclude}") if exclude else ())


def _sinfo(cluster: str | None, *words: str) -> list[str]:
    answer = ask(*at(cluster, "sinfo", "--noheader", "--Node", *words), environ=scrubbed(os.environ))
    return [line.strip() for line in answer.out.splitlines() if line.strip() and not line.startswith("CLUSTER: ")]

"""A small real job: sent to the nodes, answered by files in the run folder, never longer than it may take."""

import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm.checks import probe
from slurm.checks.ask import ask, at, scrubbed
from slurm.grammar import answered, cluster_of, number_of
from slurm.profile import ClusterProfile

_POLL = 0.05

_LONGEST = 5
"""Minutes after which Slurm ends the job, whatever happens to us."""

_LATE = 30.0
"""Seconds after the job's end in which its files may still appear."""

_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", ""}
"""States of a job that will write no more; empty where squeue knows it no longer."""


@dataclass(frozen=True)
class Visit:
    """What the nodes told (a report each), or `trouble`: why they told nothing.

    `state` is the job's last state; `clocks` holds for each node the times of the launcher around one of the node's.
    """

    reports: tuple[Mapping[str, Any], ...] = ()
    clocks: tuple[tuple[float, float, float], ...] = ()
    seconds_to_start: float = 0.0
    state: str = ""
    trouble: str = ""


@dataclass
class _Correspondence:
    """The launcher's side of the files in `folder`."""

    folder: Path
    asked: dict[int, float] = field(default_factory=dict)
    clocks: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def step(self) -> None:
        """Answer what has appeared."""
        names = {path.name for path in self.folder.iterdir()}
        for rank in range(2):
            if f"started-{rank}" in names and rank not in self.asked:
                self.asked[rank] = time.time()
                probe.put(self.folder, f"ping-{rank}")
            if f"pong-{rank}" in names and rank not in self.clocks:
                after = time.time()
                self.clocks[rank] = (self.asked[rank], self._read(f"pong-{rank}")["time"], after)

    def reports(self) -> list[Mapping[str, Any]]:
        return [self._read(path.name) for path in sorted(self.folder.glob("report-*"))]

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def visit(
    runs: Path,
    words: Sequence[str],
    environ: Mapping[str, str],
    profile: ClusterProfile,
    *,
    num_nodes: int,
    wait: float,
) -> Visit:
    """Send a job to `num_nodes` nodes and collect what they saw of a new folder in `runs`, which is removed again."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".cxr-doctor-", dir=runs))
    except OSError as error:
        return Visit(trouble=f"cannot make a folder in {runs} ({error.strerror})")
    clean = scrubbed(environ)
    try:
        sent = ask(*_sbatch(words, num_nodes), environ=clean, stdin=_script(folder, profile))
        if not sent.ok:
            return Visit(state="REFUSED", trouble=f"sbatch refused a small job: {sent.reason}")
        job = answered(sent.out)
        if job is None:
            return Visit(state="REFUSED", trouble=f"sbatch does not say which job it sent: {sent.out.strip()}")
        try:
            return _collect(folder, job, clean, num_nodes, wait)
        finally:
            ask(*at(cluster_of(job), "scancel", number_of(job)), environ=clean)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sbatch(words: Sequence[str], num_nodes: int) -> list[str]:
    kept = [word for word in words if not word.startswith(("--time=", "--cpus-per-task="))]
    return [
        *("sbatch", "--job-name=cxr-doctor", "--no-requeue", "--chdir=/", "--output=/dev/null"),
        *kept,
        *(f"--nodes={num_nodes}", "--ntasks-per-node=1", "--cpus-per-task=1", f"--time={_LONGEST}"),
    ]


def _script(folder: Path, profile: ClusterProfile) -> str:
    payload = shlex.join([str(Path(probe.__file__).absolute()), str(folder), profile.scratch or ""])
    lines = [
        "#!/bin/bash",
        # Not as an option: Slurm would expand a % in the name of the folder.
        f"exec > {shlex.quote(str(folder / 'job.out'))} 2>&1",
        *profile.setup,
        f"python={shlex.quote(sys.executable)}",
        '[ -x "$python" ] || python=python3',
        # Isolated: neither PYTHONPATH nor the folder of the script may put a module before Python's own.
        f'srun --ntasks-per-node=1 --cpus-per-task=1 "$python" -I {payload}',
    ]
    return "\n".join(lines) + "\n"


def _collect(folder: Path, job: str, environ: Mapping[str, str], num_nodes: int, wait: float) -> Visit:
    letters, begin, started = _Correspondence(folder), time.monotonic(), 0.0
    state, reason, looked, ended = "PENDING", "", 0.0, 0.0
    while True:
        letters.step()
        now = time.monotonic()
        started = started or (now - begin if letters.asked else 0.0)
        reports = letters.reports()
        if len(reports) == num_nodes:
            clocks = tuple(letters.clocks[rank] for rank in sorted(letters.clocks))
            return Visit(tuple(reports), clocks, started, state)
        if now - looked > 1:
            looked = now
            answer = ask(*_question(job), environ=environ)
            # A controller that is busy for a moment says nothing about the job.
            if answer.ok or "Invalid job id" in answer.err:
                state, _, reason = answer.out.strip().partition("|")
        ended = ended or (now if state in _OVER else 0.0)
        if state == "PENDING" and now - begin > wait:
            return Visit(state=state, trouble=f"no node was free for a small job within {wait:.0f} s ({reason})")
        if ended and now - ended > (_LATE if state == "COMPLETED" else 2):
            return Visit(state=state or "unknown", trouble=_why_silent(folder, job, state, bool(letters.asked)))
        if now - begin > wait + 60 * _LONGEST:
            return Visit(state=state, trouble=f"job {job} is {state} and its nodes said nothing")
        time.sleep(_POLL)


def _question(job: str) -> list[str]:
    return at(cluster_of(job), "squeue", "-h", "-t", "all", "-j", number_of(job), "-o", "%T|%r")


def _why_silent(folder: Path, job: str, state: str, heard: bool) -> str:
    log = folder / "job.out"
    if log.exists():
        said = "; ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        return f"job {job} ended as {state or 'unknown'}: {said or 'it printed nothing'}"
    if heard:
        return f"job {job} began and ended as {state or 'unknown'} without a report"
    return f"job {job} ended as {state or 'unknown'}, and none of its files appeared in {folder.parent}"

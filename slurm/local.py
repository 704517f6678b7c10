"""The cluster of one machine: the tasks of a submit as processes, some at once.

Tasks share its cores. Two that compute with all of them wait for one another at each step of a sum; so no more run at
once than the cores hold, and a thread that waits sleeps instead of turning.
"""

import os
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slurm.script import Payload

_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""How threads of the libraries that compute wait for one another: asleep."""


def at_once(parallel: int, cpus: int) -> int:
    """How many tasks of `cpus` threads each run at once, of `parallel` wished for: what the cores of this process hold,
    at least one."""
    return max(1, min(parallel, len(os.sched_getaffinity(0)) // cpus))


def run_tasks(payload: Payload, num_tasks: int, *, parallel: int, environ: Mapping[str, str]) -> dict[int, int]:
    """Run every task to its end, at most `parallel` at once. Returns number -> exit status of those that failed."""
    with ThreadPoolExecutor(parallel) as pool:
        states = list(pool.map(lambda index: _run_task(payload, index, environ), range(num_tasks)))
    return {index: state for index, state in enumerate(states) if state}


def log_of(payload: Payload, index: int) -> Path:
    """Where a task writes."""
    return payload.submit / f"local_{index}.out"


def _run_task(payload: Payload, index: int, environ: Mapping[str, str]) -> int:
    start = payload.submit / f"local_{index}-0.start"
    start.touch()
    begun = time.monotonic()
    with log_of(payload, index).open("ab") as file:
        status = _status(payload, _environ(payload, environ, index) | {"CXR_START": os.fspath(start)}, file.fileno())
    if start.exists():
        # Python removes it when it begins, and a shell that fails before: where neither did, leave word as the shell.
        end, status = start.with_suffix(".end"), status or 1
        if not end.exists():
            end.write_text(f"start {time.monotonic() - begun:.0f} {status} starting Python\n")
        step = end.read_text().split(maxsplit=3)[-1].strip()
        with log_of(payload, index).open("a") as file:
            file.write(f"cxr: the task ends before its work, in {step}: exit status {status}\n")
        start.unlink()
    return status


def _status(payload: Payload, environ: Mapping[str, str], log: int) -> int:
    """The exit status of a task as a shell gives it; 127 where it could not be started."""
    try:
        done = subprocess.run(
            payload.words, env=environ, cwd=payload.cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    except OSError as error:
        os.write(log, f"cxr: {payload.words[0]}: {error.strerror}\n".encode())
        return 127
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _environ(payload: Payload, environ: Mapping[str, str], index: int) -> dict[str, str]:
    code: dict[str, Path | str] = {"PYTHONPATH": payload.code} if payload.code else {}
    ours = {
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "SLURM_ARRAY_TASK_ID": str(index),
        **code,
    }
    return {**_WAITING, **environ, **{name: os.fspath(value) for name, value in ours.items()}}

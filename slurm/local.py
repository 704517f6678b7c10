"""The cluster of one machine: the tasks of a submit as processes, some at once."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slurm.script import Payload


def run_tasks(payload: Payload, num_tasks: int, *, parallel: int, environ: Mapping[str, str]) -> list[int]:
    """Run every task to its end, at most `parallel` at once, and return the numbers of those that failed."""
    with ThreadPoolExecutor(parallel) as pool:
        states = list(pool.map(lambda index: _run_task(payload, index, environ), range(num_tasks)))
    return [index for index, state in enumerate(states) if state]


def _run_task(payload: Payload, index: int, environ: Mapping[str, str]) -> int:
    log = payload.submit / f"local_{index}.out"
    with log.open("ab") as file:
        words: Sequence[str] = payload.words
        done = subprocess.run(
            words, env=_environ(payload, environ, index), cwd=payload.cwd, stdout=file, stderr=file, check=False
        )
    return done.returncode


def _environ(payload: Payload, environ: Mapping[str, str], index: int) -> dict[str, str]:
    code: dict[str, Path | str] = {"PYTHONPATH": payload.code} if payload.code else {}
    ours = {
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "SLURM_ARRAY_TASK_ID": str(index),
        **code,
    }
    return {**environ, **{name: os.fspath(value) for name, value in ours.items()}}

"""A whole pipeline small enough for tests, driven by the real command in processes of its own."""

import io
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cxr_core.runs.run import Run, StageFolder

NANO = """\
name: nano
seed: 5
stages:
  - name: real
    kind: preprocess
    threads: 1
    data: {kind: phantom, num_images: 240, seed: 3, size: 64}
    size: 32
    shard_size: 20
  - name: vae
    kind: train
    threads: 1
    model: vae
    preset: nano
    inputs: {dataset: real}
    steps: 40
    batch_size: 4
    checkpoint_every: 4
    learning_rate: 1.0e-3
    validation_images: 8
  - name: latents
    kind: latents
    threads: 1
    inputs: {dataset: real, base: vae}
    batch_size: 16
    shard_size: 64
  - name: diffusion
    kind: train
    threads: 1
    model: diffusion
    inputs: {latents: latents, base: vae}
    steps: 160
    batch_size: 8
    checkpoint_every: 16
    keep: {last: 2, every: 80}
    learning_rate: 1.0e-3
    validation_images: 8
    preview: {num_prompts: 2, denoising_steps: 2}
  - name: synthetic
    kind: generate
    threads: 1
    inputs: {model: diffusion, like: real}
    request: {balanced: [No Finding, Effusion], num_images: 192}
    denoising_steps: 4
    batch_size: 8
    shard_size: 8
  - name: study
    kind: evaluate
    threads: 1
    inputs: {real: real, synthetic: synthetic}
    grids: {findings: [Effusion], num_columns: 2}
    utility:
      - {finding: Effusion, num_images: 16, num_test: 20, min_test: 4, epochs: 1, seeds: [0]}
      - {finding: Edema, num_images: 1000}
"""
"""All stages; small models, many shards."""


def cxr(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command to its end."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **{"timeout": 600} | options)


def cxr_here(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, which saves the second of a start: where not the process is what is tested."""
    from jobs.cli import main

    said, told, status = io.StringIO(), io.StringIO(), 0
    command = ["cxr", *map(str, words)]
    with redirect_stdout(said), redirect_stderr(told), patch.object(sys, "argv", command), patch.dict(os.environ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(command, status, said.getvalue(), told.getvalue())


def run_nano(config: Path, runs: Path, *words: str) -> None:
    """Run a config and insist that it ends well."""
    done = cxr("run", config, "--runs", runs, *words)
    assert done.returncode == 0, done.stderr


def stage_folder(runs: Path, stage: str) -> StageFolder:
    return Run.open(runs / "nano").stage(stage)


def losses(folder: StageFolder) -> list[str]:
    """All lines of the metrics of a train stage in order of steps, to the last bit of each number."""
    return [line for r in folder.receipts() for line in r.path(folder.path, "metrics").read_text().splitlines()]


def copy_until(runs: Path, target: Path, stage: str) -> None:
    """A run folder that holds all stages before `stage`."""
    run = Run.open(runs / "nano")
    names = [entry["name"] for entry in run.config["stages"]]
    later = set(names[names.index(stage) :])
    shutil.copytree(run.root, target / "nano", ignore=lambda folder, found: later & set(found))


_MEASURED = """\
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def cxr_with_memory(*words: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str, float]:
    """Run `cxr`: exit status, all that it said, and the most memory that it held, in MiB."""
    return python_with_memory("-m", "jobs.cli", *words, env=env)


def python_with_memory(*words: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str, float]:
    """The same of any Python process.

    A small process starts it, since Linux counts what the one that starts a process holds as that one's own.
    """
    command = [sys.executable, "-c", _MEASURED, sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    *said, kilobytes = done.stderr.splitlines()
    return done.returncode, "\n".join([done.stdout, *said]), int(kilobytes) / 1024


def kill_at_random_moments(config: Path, runs: Path, stage: str, *, num_kills: int, seed: int) -> list[int]:
    """Start the stage and kill -9 its process, `num_kills` times; return the receipts that were there each time.

    The moments are drawn from `seed`: a number of receipts to wait for, and a time after that.
    """
    draw = random.Random(seed)
    folder = StageFolder(runs / "nano" / stage)
    seen = []
    for _ in range(num_kills):
        wanted = len(folder.done()) + draw.randint(0, 2)
        start_and_kill(config, runs, stage, after=wanted, delay=draw.uniform(0, 0.4))
        seen.append(len(folder.done()))
    return seen


def start_and_kill(config: Path, runs: Path, stage: str, *, after: int, delay: float = 0.0) -> None:
    """Start the stage and kill -9 its process `delay` seconds after there are `after` receipts."""
    command = [sys.executable, "-m", "jobs.cli", "run", str(config), "--runs", str(runs), "--stage", stage]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_for_work(process, StageFolder(runs / "nano" / stage), after)
        time.sleep(delay)
        process.kill()


def _wait_for_work(process: subprocess.Popen[bytes], folder: StageFolder, wanted: int) -> None:
    attempts = folder.path / "attempts"
    before = {entry.name for entry in attempts.iterdir()} if attempts.is_dir() else set()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        started = attempts.is_dir() and {entry.name for entry in attempts.iterdir()} > before
        if started and len(folder.done()) >= wanted:
            return
        time.sleep(0.01)

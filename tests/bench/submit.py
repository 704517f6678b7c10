"""The row of the launcher: C9."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import patch

from submitit.slurm.slurm import SlurmExecutor

from cxr_core.runs.submits import Submit, submit_folders
from jobs.cluster_commands import submit
from jobs.config import RunConfig
from tests.bench.harness import Peer, Row

NUM_SHARDS = 10_000

_NO_SCHEDULER = {"sbatch": "echo Submitted batch job 1", "squeue": "", "srun": ""}
"""Commands that answer at once: what a scheduler takes is not ours to measure."""


@contextmanager
def c9() -> Iterator[Row]:
    """What a launcher does for an array, but for its imports and the scheduler's own time."""
    with tempfile.TemporaryDirectory() as name, _scheduler(Path(name)):
        folder = Path(name)
        config, profile = _config(), _profile(folder)
        run = folder / config.name
        submit(config, folder, str(profile))  # freezes the plan; a run does that once
        numbers = count()

        def product() -> None:
            shutil.rmtree(run / "real" / "submits")
            submit(config, folder, str(profile))

        def peer() -> None:
            executor = SlurmExecutor(folder / f"submitit{next(numbers)}")
            executor.map_array(partial(divmod, 7), range(1, NUM_SHARDS + 1))

        def check() -> None:
            ours = [Submit.read(each) for each in submit_folders(run / "real")]
            assert sum(len(pack) for each in ours for pack in each.packs or ()) == NUM_SHARDS
            assert num_files(run / "real" / "submits") <= 5

        def num_files(where: Path) -> int:
            return sum(path.is_file() for path in where.rglob("*"))

        peer()
        yield Row(
            "C9",
            f"submit {NUM_SHARDS:,} shards, without imports and the scheduler",
            product,
            (Peer("submitit map_array", peer, 5, 10),),
            check,
            {"files": num_files(run / "real" / "submits"), "files_submitit": num_files(folder / "submitit0")},
        )


@contextmanager
def _scheduler(folder: Path) -> Iterator[None]:
    commands = folder / "bin"
    commands.mkdir()
    for name, line in _NO_SCHEDULER.items():
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    with patch.dict(os.environ, {"PATH": f"{commands}:{os.environ['PATH']}"}):
        yield


def _config() -> RunConfig:
    data = {"kind": "phantom", "num_images": NUM_SHARDS}
    stage = {"name": "real", "kind": "preprocess", "threads": 1, "data": data, "size": 32, "shard_size": 1}
    return RunConfig.model_validate({"name": "many", "seed": 1, "stages": [stage]})


def _profile(folder: Path) -> Path:
    path = folder / "site.yaml"
    path.write_text("inherits: base\nmax_submit: 20000\ntask_minutes: 1\n")
    return path

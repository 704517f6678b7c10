"""Stable Diffusion 2.1 in full size: what is planned, and steps on the CPU; `make proof TARGET=sd21_step`, minutes.

Its weights are random. Takes 16 GiB of memory and 25 GB of disk, which are given back. Two steps, because AdamW's
moments come with the first: only in the second all that was planned is there at once.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.runs.run import Run
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

GIB = 2**30
MOST_MEMORY, LEAST_LEFT = 20 * GIB, GIB // 2
"""Of the process: it is ended when it holds more, or leaves less to the machine."""
NEEDED_DISK = 30e9

BUILD = """\
import sys
from pathlib import Path
from cxr_core.models import stable_diffusion
from cxr_core.models.presets import SD21_BASE
stable_diffusion.save(stable_diffusion.build(SD21_BASE, seed=21), Path(sys.argv[1]))
"""

CONFIG = """\
name: sd21
seed: 21
stages:
  - {{name: real, kind: preprocess, data: {{kind: phantom, num_images: 4, seed: 3, size: 512}}, size: 512, threads: 2}}
  - {{name: latents, kind: latents, inputs: {{dataset: real, base: "{base}"}}, batch_size: 1, shard_size: 4}}
  - name: diffusion
    kind: train
    model: diffusion
    inputs: {{latents: latents, base: "{base}"}}
    train_text_encoder: false
    gradient_checkpointing: true
    ema_decay: null
    steps: 2
    batch_size: 1
    checkpoint_every: 2
    learning_rate: 2.0e-6
    validation_images: 0
    preview: {{num_prompts: 1, denoising_steps: 1, guidance: 1.0}}
    threads: 2
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        free = shutil.disk_usage(name).free
        assert free > NEEDED_DISK, f"{free / 1e9:.0f} GB free at {name}, {NEEDED_DISK / 1e9:.0f} are needed: set TMPDIR"
        yield Path(name)


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    subprocess.run([sys.executable, "-c", BUILD, folder / "base"], check=True)
    path = folder / "sd21.yaml"
    path.write_text(CONFIG.format(base=folder / "base"))
    return path


@pytest.fixture(scope="module")
def planned(config: Path) -> float:
    """GiB of one GPU by `cxr plan`."""
    done = cxr("plan", config)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}")
    found = re.search(r"memory of one GPU ([\d.]+) GiB", done.stdout)
    assert found
    return float(found[1])


def test_given_two_steps_of_the_unet_alone_memory_is_as_planned(config: Path, planned: float, folder: Path) -> None:
    runs = folder / "runs"
    for stage in ("real", "latents"):
        done = cxr("run", config, "--runs", runs, "--stage", stage, timeout=3600)
        assert done.returncode == 0, done.stderr
    before, peak = _run_watched(config, runs)
    stage = Run.open(runs / "sd21").stage("diffusion")
    (receipt,) = stage.receipts()
    rows = [json.loads(line) for line in receipt.path(stage.path, "metrics").read_text().splitlines()]
    train, export = (receipt.seconds[name] for name in ("train", "export"))
    print(
        f"\nplanned {planned:.2f} GiB; held at most {before:.2f} until the steps were done, {peak:.2f} with the export"
    )
    print(f"{train / len(rows):.0f} s a step on 2 threads, {export:.0f} s for checkpoint and preview; {rows}")
    assert before == pytest.approx(planned, rel=0.2)
    assert peak < MOST_MEMORY / GIB
    assert (final_checkpoint(stage.path) / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def _run_watched(config: Path, runs: Path) -> tuple[float, float]:
    """Train in a process of its own: the most GiB that it held until its steps were done, and in all."""
    command = [sys.executable, "-m", "jobs.cli", "run", config, "--runs", runs, "--stage", "diffusion"]
    until = peak = 0.0
    log = runs / "log"
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        # Where the machine runs out of memory, let it be this process that goes.
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        while process.poll() is None:
            peak = max(peak, _held(process.pid))
            if peak > MOST_MEMORY / GIB or _left() < LEAST_LEFT:
                process.kill()
                pytest.fail(f"ended at {peak:.2f} GiB, with {_left() / GIB:.2f} GiB left to the machine")
            until = until or (peak if _steps_are_done(runs) else 0.0)
            time.sleep(0.1)
    assert process.returncode == 0, log.read_text()
    return until or peak, peak


def _held(pid: int) -> float:
    """The most GiB that a process has held."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) / 2**20 if found else 0.0


def _left() -> int:
    """Bytes of the machine that nobody holds."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    return int(found[1]) * 1024


def _steps_are_done(runs: Path) -> bool:
    """Whether a training state is being written: the first thing after the steps."""
    return any((runs / "sd21" / "diffusion" / "attempts").rglob("training.state"))

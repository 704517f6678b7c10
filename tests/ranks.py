"""Training stages of nano size on several ranks, and what is done to one of them while it trains."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.runs.files import read_json
from cxr_core.runs.pack import Work, freeze, run_pack
from tests.planted import planted_rows, write_planted
from tests.slurm.tiny import TinyRun
from tests.training import SIZE, diffusion_stage, finish, forget, latents_stage, prompted, vae_stage

STEPS, EVERY, BATCH = 40, 10, 8
TRAINED = {"batch_size": BATCH, "steps": STEPS, "checkpoint_every": EVERY, "keep": {"last": 4}}
TOLERANCE = 1e-5
"""Of losses, relative. Ranks add up the same numbers in another order, which in fp32 moves a loss by 1e-7 (in 40 steps
at most 3e-7 was seen); training carries such a difference on, so there is room. Another batch, or another noise,
changes a loss by 1e-1."""

RANKS: dict[str, Any] = {"per_node": 2, "zero": 2, "all_reduce_mib": 4, "silent_seconds": 20}

PATIENCE = 900.0
"""Seconds for ranks of a cluster's job: on two cores that others use too, they were seen to need 285 to load torch and
DeepSpeed and make a first checkpoint."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Latents and the base that made them."""
    return _inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def alone(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage trained in one process."""
    return train(tmp_path_factory.mktemp("alone") / "stage", given)


def _inputs(folder: Path) -> tuple[Path, Path]:
    rows = prompted(planted_rows(12) + planted_rows(6, split="val") + planted_rows(2, split="test"))
    dataset = write_planted(folder / "real", rows, size=SIZE).folder
    base = finish(vae_stage(folder / "vae", dataset))
    return finish(latents_stage(folder / "latents", dataset, base)), base


def train(folder: Path, given: tuple[Path, Path], ranks: dict[str, Any] | None = None, **values: Any) -> Path:
    """Train what is left of the stage in `folder` on these ranks, or in this process, from the files alone."""
    forget()
    return finish(diffusion_stage(folder, *given, ranks=ranks, **{**TRAINED, **values}))


def fail(folder: Path, given: tuple[Path, Path], ranks: dict[str, Any], **values: Any) -> UserError:
    """The same where it must fail."""
    return failure(diffusion_stage(folder, *given, ranks=ranks, **{**TRAINED, **values}))


def failure(work: Work) -> UserError:
    """Why what is left of a stage cannot be trained."""
    plan = freeze(work)
    with pytest.raises(UserError) as raised:
        run_pack(work, plan, [shard.id for shard in plan.shards])
    return raised.value


@contextmanager
def signalled(folder: Path, rank: int, how: signal.Signals, *, after: str) -> Iterator[None]:
    """Send a signal to a rank of the stage in `folder` as soon as the shard `after` is committed."""

    def send() -> None:
        deadline = time.monotonic() + 300
        while not (folder / "receipts" / f"{after}.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(int(beat(folder, rank)["pid"]), how)

    sender = threading.Thread(target=send)
    sender.start()
    yield
    sender.join()


def beat(folder: Path, rank: int) -> dict[str, Any]:
    """The last beat of a rank of the attempt that was started last."""
    newest = max(folder.glob("attempts/*/ranks"), key=lambda path: path.stat().st_mtime)
    return dict(json.loads((newest / f"rank-{rank}.json").read_text()))


def rank_of(run: TinyRun, start: str, rank: int) -> int:
    """The process of a rank in one start of a task of a cluster."""
    return int(read_json(next(run.stage.path.glob(f"submits/*/{start}.ranks/rank-{rank}.json")))["pid"])


def without_log(error: object) -> str:
    """What is said of a rank, without the path of its log."""
    return str(error).split(" Its log: ")[0]


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def weights(stage: Path) -> dict[str, Any]:
    """The UNet that the final checkpoint exports."""
    return dict(stable_diffusion.load(final_checkpoint(stage)).unet.state_dict())

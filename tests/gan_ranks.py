"""A PG-GAN of nano size that grows while several ranks train it, and what must be alike of two such stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import jobs.train
from cxr_core.models.checkpoints import checkpoint_at
from cxr_core.runs.pack import Work
from cxr_core.training.pggan_settings import PgganTrain
from tests.planted import planted_rows, write_planted
from tests.ranks import TOLERANCE
from tests.training import forget, metrics, stage

STEPS = (5, 10, 15, 20)
VALUES: dict[str, Any] = {
    "kind": "train",
    "model": "pggan",
    "preset": "nano",
    "steps": STEPS[-1],
    "batch_size": 8,
    "images": 48,
    "fade_images": 32,
    "checkpoint_every": STEPS[0],
    "keep": {"last": len(STEPS)},
    "num_previews": 2,
    "threads": 1,
}
"""Six steps at 4 pixels, six at 8, eight at 16; checkpoints at 4, at 8, at 16 in mid-fade, and at 16 whole."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("data") / "real", planted_rows(30), size=16).folder


def gan_stage(folder: Path, dataset: Path, **values: Any) -> Work:
    """The stage in `folder`, to be trained from its files alone."""
    forget()
    settings = PgganTrain(name="g", inputs={"dataset": "d"}, **{**VALUES, **values})
    return stage(folder, jobs.train, settings, {"dataset": dataset})


def assert_alike(found: Path, wanted: Path) -> float:
    """Losses, gradients' norms and all weights of two stages, but for rounding; losses cross zero, hence `abs`.

    Returns the largest difference of a loss.
    """
    rows, others = metrics(found), metrics(wanted)
    for key in ("loss", "generator_loss", "grad_norm", "generator_grad_norm"):
        values = [row[key] for row in rows]
        assert values == pytest.approx([row[key] for row in others], rel=TOLERANCE, abs=TOLERANCE), key
    for step in STEPS:
        one, other = (load_file(checkpoint_at(folder, step) / "pggan.safetensors") for folder in (found, wanted))
        for name, value in other.items():
            assert torch.linalg.norm(one[name] - value) <= TOLERANCE * torch.linalg.norm(value), (step, name)
    pairs = zip(rows, others, strict=True)
    return max(abs(row[key] - other[key]) for row, other in pairs for key in ("loss", "generator_loss"))

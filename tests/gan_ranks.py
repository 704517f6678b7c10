"""A PG-GAN of nano size that grows while several ranks train it, and what must be alike of two such stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector

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
    "images_per_scale": 48,
    "fade_images": 32,
    "checkpoint_every": STEPS[0],
    "keep": {"last": len(STEPS)},
    "learning_rate": 1e-5,
    "num_previews": 2,
    "threads": 1,
}
"""Six steps at 4 pixels, six at 8, eight at 16; checkpoints at 4, at 8, at 16 in mid-fade, and at 16 whole.

A hundredth of the usual learning rate: with that one, rounding that takes a leaky ReLU across its kink has grown to a
hundredth of the loss six steps later. So what differs here by more than rounding is wrong: half of the gradient alone
would move a loss by 1e-2 in a step.
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("data") / "real", planted_rows(30), size=16).folder


def gan_stage(folder: Path, dataset: Path, **values: Any) -> Work:
    """The stage in `folder`, to be trained from its files alone."""
    forget()
    settings = PgganTrain(name="g", inputs={"dataset": "d"}, **{**VALUES, **values})
    return stage(folder, jobs.train, settings, {"dataset": dataset})


_JUMP = 1e-3
"""What holds a gradient, as the discriminator's loss does in its penalty, jumps where rounding crosses a kink."""
_BOUNDS = {"loss": _JUMP, "generator_loss": TOLERANCE, "grad_norm": _JUMP, "generator_grad_norm": _JUMP}


def assert_alike(found: Path, wanted: Path) -> dict[str, float]:
    """Both losses of each step and both networks at each checkpoint are those of another stage, but for rounding.

    Losses cross zero, hence `abs`. Returns the largest differences of both losses.
    """
    rows, others = metrics(found), metrics(wanted)
    for key, bound in _BOUNDS.items():
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in others], rel=bound, abs=bound), key
    for step in STEPS:
        one, other = (weights(folder, step) for folder in (found, wanted))
        assert torch.linalg.norm(one - other) <= TOLERANCE * torch.linalg.norm(other), step
    pairs = list(zip(rows, others, strict=True))
    return {key: max(abs(row[key] - other[key]) for row, other in pairs) for key in ("loss", "generator_loss")}


def weights(stage_folder: Path, step: int) -> torch.Tensor:
    """All of a checkpoint, in one vector."""
    return parameters_to_vector(load_file(checkpoint_at(stage_folder, step) / "pggan.safetensors").values())

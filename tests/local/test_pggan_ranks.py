"""A PG-GAN trained on two real ranks over gloo: the losses and weights of one process, and a rank that dies."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import jobs.train
from cxr_core.models.checkpoints import checkpoint_at, read_checkpoints
from cxr_core.models.pggan_folder import read_info
from cxr_core.runs.files import read_json, sha256_path
from cxr_core.runs.pack import Work
from cxr_core.training.pggan_settings import PgganTrain
from tests.planted import planted_rows, write_planted
from tests.ranks import TOLERANCE, beat, failure, signalled
from tests.training import finish, forget, metrics, stage

RANKS = {"per_node": 2, "all_reduce_mib": 1, "silent_seconds": 60}
VALUES: dict[str, Any] = {
    "preset": "nano",
    "steps": 20,
    "batch_size": 8,
    "images": 48,
    "fade_images": 32,
    "checkpoint_every": 5,
    "keep": {"last": 4},
    "num_previews": 2,
    "threads": 1,
}
"""Six steps at 4 pixels, six at 8, eight at 16; checkpoints at 4, at 8 and at 16 in mid-fade, and at 16 whole."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("data") / "real", planted_rows(30), size=16).folder


def gan_stage(folder: Path, dataset: Path, ranks: dict[str, Any] | None) -> Work:
    forget()
    settings = PgganTrain(name="g", kind="train", model="pggan", inputs={"dataset": "d"}, ranks=ranks, **VALUES)
    return stage(folder, jobs.train, settings, {"dataset": dataset})


STEPS = (5, 10, 15, 20)


def assert_alike(found: Path, wanted: Path) -> None:
    """Losses, gradients' norms and all weights of two stages, but for rounding; losses cross zero, hence `abs`."""
    for key in ("loss", "generator_loss", "grad_norm", "generator_grad_norm"):
        values = ([row[key] for row in metrics(folder)] for folder in (found, wanted))
        assert next(values) == pytest.approx(next(values), rel=TOLERANCE, abs=TOLERANCE), key
    for step in STEPS:
        one, other = (load_file(checkpoint_at(folder, step) / "pggan.safetensors") for folder in (found, wanted))
        for name, value in other.items():
            assert torch.linalg.norm(one[name] - value) <= TOLERANCE * torch.linalg.norm(value), (step, name)


def test_given_two_ranks_and_a_kill_losses_and_weights_are_those_of_one_process_and_of_two_undisturbed(
    dataset: Path, tmp_path: Path
) -> None:
    alone, two, killed, fewer = (tmp_path / name for name in ("alone", "two", "killed", "fewer"))
    finish(gan_stage(alone, dataset, None))
    finish(gan_stage(two, dataset, RANKS))
    positions = [read_info(checkpoint_at(alone, step)) for step in STEPS]
    assert [(at.size, at.fade) for at in positions] == [(4, 1.0), (8, 1.0), (16, 0.75), (16, 1.0)]
    assert_alike(two, alone)

    with signalled(killed, 1, signal.SIGKILL, after="00001"):
        error = failure(gan_stage(killed, dataset, RANKS))
    assert f"(process {beat(killed, 1)['pid']}) was killed by signal 9 (SIGKILL)" in str(error)
    assert read_json(next(killed.glob("attempts/*/ranks/preflight.json")))["ranks"] == 2
    shutil.copytree(killed, fewer)
    finish(gan_stage(killed, dataset, RANKS))
    assert metrics(killed) == metrics(two)
    digests = [[sha256_path(folder / each.path) for each in read_checkpoints(folder)] for folder in (killed, two)]
    assert digests[0] == digests[1]
    # Two ranks, then one process.
    assert_alike(finish(gan_stage(fewer, dataset, None)), alone)

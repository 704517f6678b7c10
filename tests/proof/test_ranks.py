"""Training on two and four ranks with each stage of ZeRO, on real processes over gloo; `make proof TARGET=ranks`.

The model has a UNet and a text encoder, which are trained together; all is compared with one process.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.runs.files import read_json, sha256_path
from tests.pipeline import cxr
from tests.ranks import (
    PATIENCE,
    RANKS,
    TOLERANCE,
    TRAINED,
    alone,
    fail,
    given,
    rank_of,
    signalled,
    train,
    weights,
    without_log,
)
from tests.slurm.cluster import Cluster
from tests.slurm.faults import preempt
from tests.slurm.tiny import TinyRun
from tests.training import COMMON, losses, metrics

__all__ = ["alone", "given"]

pytestmark = pytest.mark.proof


def ranks(num: int, zero: int, **values: Any) -> dict[str, Any]:
    # Four processes and more on two cores: none is to be taken for hung.
    return {**RANKS, "per_node": num, "zero": zero, "silent_seconds": 60, **values}


def assert_same(found: Sequence[float], wanted: Sequence[float], what: str) -> None:
    """Prints by how much losses differ, and asserts that it is less than the tolerance."""
    assert len(found) == len(wanted)
    differences = [abs(a - b) / b for a, b in zip(found, wanted, strict=True)]
    most, first = max(differences), differences[0]
    print(f"\n{what}: {len(found)} losses, largest relative difference {most:.1e}, of the first {first:.1e}")
    assert most < TOLERANCE


@pytest.mark.parametrize(
    ("num", "zero", "more"),
    [
        (2, 0, {}),
        (2, 1, {}),
        (2, 2, {}),
        (4, 1, {}),
        (4, 2, {}),
        (2, 3, {}),
        (1, 2, {"offload": True}),
        (2, 2, {"micro_batch": 2}),
    ],
    ids=str,
)
def test_given_ranks_then_losses_and_weights_are_those_of_one_process(
    num: int, zero: int, more: dict[str, Any], given: tuple[Path, Path], alone: Path, tmp_path: Path
) -> None:
    offload, micro = more.get("offload", False), more.get("micro_batch")
    found = train(tmp_path / "stage", given, ranks(num, zero, offload=offload), micro_batch=micro)
    what = f"{num} ranks, ZeRO {zero}{', offloaded' if offload else ''}{f', {micro} images at once' if micro else ''}"
    assert_same(losses(found), losses(alone), what)
    measured = [[row["validation_loss"] for row in metrics(f) if "validation_loss" in row] for f in (found, alone)]
    assert_same(*measured, f"{what}, on held-out patients")
    for name, value in weights(alone).items():
        assert torch.allclose(weights(found)[name], value, rtol=1e-3, atol=1e-4), name


def test_given_kills_then_the_same_ranks_go_on_bit_for_bit_and_other_numbers_within_the_tolerance(
    given: tuple[Path, Path], alone: Path, tmp_path: Path
) -> None:
    undisturbed = train(tmp_path / "undisturbed", given, ranks(2, 2))
    same = tmp_path / "same"
    with signalled(same, 1, signal.SIGKILL, after="00001"):
        fail(same, given, ranks(2, 2))
    train(same, given, ranks(2, 2))
    assert losses(same) == losses(undisturbed)
    assert sha256_path(final_checkpoint(same)) == sha256_path(final_checkpoint(undisturbed))
    print("\nkill -9 of one of two ranks, then two again: losses and final checkpoint are the same, bit for bit")

    other = tmp_path / "other"
    with signalled(other, 0, signal.SIGKILL, after="00000"):
        error = fail(other, given, ranks(2, 2))
    assert "rank 0 on" in str(error)
    with signalled(other, 3, signal.SIGKILL, after="00001"):
        fail(other, given, ranks(4, 1))
    with signalled(other, 1, signal.SIGKILL, after="00002"):
        fail(other, given, ranks(2, 3))
    train(other, given)
    assert_same(losses(other), losses(alone), "two ranks (ZeRO 2), four (1), two (3), one process, a kill between each")


def test_given_a_rank_that_the_others_wait_for_too_long_then_it_is_named(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    # As where a collective operation is stuck: that ranks are heard of is not looked at within this time.
    patient = ranks(2, 2, silent_seconds=600, collective_minutes=0.5)
    with signalled(tmp_path / "stage", 1, signal.SIGSTOP, after="00000"):
        error = fail(tmp_path / "stage", given, patient)
    assert "rank 1 on" in str(error)
    assert "died without a word, or was stopped" in str(error)
    words = [read_json(path)["text"] for path in tmp_path.glob("stage/attempts/*/ranks/rank-0.error.json")]
    print(f"\n{words[0][:120]}\n{without_log(error)}")


def test_given_a_latent_that_is_not_a_number_on_one_rank_then_all_stop_and_the_images_are_named(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    latents = shutil.copytree(given[0], tmp_path / "latents")
    for shard in read_json(latents / "latents.json")["shards"]:
        path = latents / shard["moments"]
        moments = np.load(path)
        moments[0] = np.nan
        np.save(path, moments)
    error = fail(tmp_path / "stage", (latents, given[1]), ranks(2, 2))
    assert "the loss is nan" in str(error)
    assert "the last checkpoint is kept" in str(error)
    assert "rank" not in error.where, "all ranks say the same"
    print(f"\n{error}")


def test_given_what_all_ranks_refuse_then_it_is_said_once_and_of_no_rank(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    error = fail(tmp_path / "stage", given, ranks(2, 2), attention="xformers")
    assert "attention: xformers needs a GPU" in str(error)
    assert "rank" not in error.where


CONFIG: dict[str, Any] = {"name": "tiny", "seed": 5}


def write_config(folder: Path, given: tuple[Path, Path], on: dict[str, Any] | None, **values: Any) -> Path:
    stage = {"name": "real", "kind": "train", "model": "diffusion", "ranks": on, **COMMON, **TRAINED, **values}
    stage |= {
        "inputs": {"latents": str(given[0]), "base": str(given[1])},
        "preview": {"denoising_steps": 2, "num_prompts": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"stages": [stage]}))
    return path


def test_given_the_command_then_a_run_goes_on_after_another_number_of_ranks_was_asked_for(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    config = write_config(tmp_path, given, None)
    assert cxr("run", config, "--runs", tmp_path / "alone", "--stage", "real").returncode == 0
    config = write_config(tmp_path, given, ranks(2, 2))
    with signalled(tmp_path / "runs" / "tiny" / "real", 1, signal.SIGKILL, after="00000"):
        died = cxr("run", config, "--runs", tmp_path / "runs", "--stage", "real")
    assert died.returncode == 2
    assert "rank 1 on" in died.stderr
    assert "was killed by signal 9 (SIGKILL)" in died.stderr
    assert "Traceback" not in died.stderr
    print(f"\n{without_log(died.stderr.strip().splitlines()[-3])}")
    again = cxr("run", config, "--runs", tmp_path / "runs", "--stage", "real", "stages.real.ranks.per_node=1")
    assert again.returncode == 0, again.stderr
    assert_same(
        losses(tmp_path / "runs" / "tiny" / "real"),
        losses(tmp_path / "alone" / "tiny" / "real"),
        "`cxr run` on two ranks, killed, then on one",
    )
    assert cxr("report", tmp_path / "runs" / "tiny").returncode == 0
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    for num in (1, 2):
        assert f"Trained on {num} rank{'s' * (num > 1)} on 1 node, ZeRO 2, gloo, TCP, 4 MiB summed over all at " in page


def test_given_a_cluster_then_ranks_on_two_nodes_outlive_a_preemption_and_a_dead_rank(
    cluster: Cluster, given: tuple[Path, Path], tmp_path: Path
) -> None:
    config = write_config(tmp_path, given, None)
    assert cxr("run", config, "--runs", tmp_path / "alone", "--stage", "real").returncode == 0
    run = TinyRun(cluster, tmp_path, config=write_config(tmp_path, given, ranks(2, 2, nodes=2)))
    array = run.submit()
    task = f"{array}_0"
    cluster.until("the first checkpoint is there", lambda: run.stage.is_done("00000"), PATIENCE)
    preempt(run, task)
    cluster.until("another one, started again", lambda: _num_made(run, f"{task}-1") > 0, PATIENCE)
    os.kill(rank_of(run, f"{task}-1", 3), signal.SIGKILL)
    run.wait(PATIENCE)
    first, second = run.attempts(task)
    assert first.outcome in ("stopped", "killed")
    assert "rank 3 on" in second.detail
    assert "died without a word" in second.detail
    assert "rank 3 on" in run.logs()
    print(
        f"\nfirst attempt: {first.outcome} {first.cause} {first.detail}\nsecond attempt: {without_log(second.detail)}"
    )

    run.finish(PATIENCE)
    assert run.num_resumes == 1
    assert run.stage.facts() is not None, run.status() + run.logs()
    assert_same(
        losses(run.stage.path), losses(tmp_path / "alone" / "tiny" / "real"), "`cxr submit`, 2 nodes with 2 ranks each"
    )
    measured = [read_json(path) for path in sorted(run.stage.path.glob("submits/*/*.ranks/preflight.json"))]
    assert {(each["ranks"], each["transport"]) for each in measured} == {(4, "gloo, TCP")}


def _num_made(run: TinyRun, start: str) -> int:
    """Checkpoints that one start of a task committed."""
    return sum(receipt.attempt.startswith(f"{start}-") for receipt in run.stage.receipts())


def test_given_a_node_whose_gpus_no_rank_sees_then_training_is_refused_with_the_counts(
    cluster: Cluster, given: tuple[Path, Path], tmp_path: Path
) -> None:
    # The cluster's GPUs are device files behind which there is no GPU.
    run = TinyRun(cluster, tmp_path, config=write_config(tmp_path, given, ranks(2, 2)))
    run.write_profile(more="gpus_per_node: 1\n")
    assert "--gpus-per-node=2" in run.cxr("plan", run.config, "--cluster", run.profile, "--runs", run.runs).stdout
    run.submit()
    run.wait(PATIENCE)
    assert "sees 0 GPUs, but 2 are given to 2 ranks of its node" in run.logs()
    print("\n" + next(line for line in run.logs().splitlines() if "GPUs" in line))

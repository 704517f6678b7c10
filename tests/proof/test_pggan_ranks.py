"""A PG-GAN on two nodes with two ranks each, one of which is killed; `make proof TARGET=pggan_ranks`, minutes."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_core.data.dataset import Dataset
from cxr_core.runs.files import read_json
from cxr_core.runs.progress import bar
from cxr_core.training.adversarial import AdversarialEngine
from cxr_core.training.pggan import PgganTask, new_model
from cxr_core.training.pggan_settings import PgganTrain
from tests.gan_ranks import VALUES, assert_alike, dataset
from tests.pipeline import cxr
from tests.ranks import PATIENCE, TOLERANCE, rank_of, without_log
from tests.slurm.cluster import Cluster
from tests.slurm.tiny import TinyRun

__all__ = ["dataset"]

pytestmark = pytest.mark.proof

# Four processes on two cores: none is to be taken for hung. Batches of whole groups of 4 for each.
RANKS = {"nodes": 2, "per_node": 2, "all_reduce_mib": 4, "silent_seconds": 60}
BATCHES = {"batch_size": 16, "images_per_scale": 96, "fade_images": 64}


def write_config(folder: Path, dataset: Path, ranks: dict[str, Any] | None) -> Path:
    stage = {"name": "real", "inputs": {"dataset": str(dataset)}, "ranks": ranks, **VALUES, **BATCHES}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "seed": 5, "stages": [stage]}))
    return path


def test_given_a_cluster_then_a_pggan_on_two_nodes_outlives_a_dead_rank_and_is_that_of_one_process(
    cluster: Cluster, dataset: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, dataset, None)
    assert cxr("run", config, "--runs", tmp_path / "alone").returncode == 0
    run = TinyRun(cluster, tmp_path, config=write_config(tmp_path, dataset, RANKS))
    assert "4 ranks (2 x 2): each has 4 of the images of a step" in run.cxr("plan", run.config).stdout
    planned = run.cxr("plan", run.config, "--cluster", run.profile, "--runs", run.runs).stdout
    assert "srun --ntasks=4 --nodes=2 --ntasks-per-node=2" in planned
    array = run.submit()
    cluster.until("the first checkpoint is there", lambda: run.stage.is_done("00000"), PATIENCE)
    os.kill(rank_of(run, f"{array}_0-0", 3), signal.SIGKILL)
    run.wait(PATIENCE)
    (attempt,) = run.attempts(f"{array}_0")
    assert "rank 3 on" in attempt.detail
    print(f"\n{without_log(attempt.detail)}")

    run.finish(PATIENCE)
    assert run.stage.facts() is not None, run.status() + run.logs()
    most = assert_alike(run.stage.path, tmp_path / "alone" / "tiny" / "real")
    print(f"`cxr submit`, 2 nodes with 2 ranks each, one killed; largest differences from one process: {most}")
    measured = [read_json(path) for path in sorted(run.stage.path.glob("submits/*/*.ranks/preflight.json"))]
    assert {(each["ranks"], each["transport"]) for each in measured} == {(4, "gloo, TCP")}


def test_given_the_usual_learning_rate_then_a_split_batch_begins_as_a_whole_one_and_rounding_grows(
    dataset: Path,
) -> None:
    for seed in range(3):
        whole, parts = (_losses(dataset, ranks, seed) for ranks in (None, RANKS))
        differences = [abs(a - b) / abs(b) for a, b in zip(parts, whole, strict=True)]
        print(f"\nseed {seed}, learning_rate 1e-3, four parts of a batch: losses of steps 1 to {len(whole)} differ by")
        print(" ".join(f"{difference:.0e}" for difference in differences))
        assert max(differences[:2]) < TOLERANCE


def _losses(dataset: Path, ranks: dict[str, Any] | None, seed: int) -> list[float]:
    """Of each step in this process, with the parts that these ranks would have one after the other."""
    values = {**VALUES, **BATCHES, "learning_rate": 1e-3}
    settings = PgganTrain(name="g", inputs={"dataset": "d"}, ranks=ranks, **values)
    task = PgganTask(new_model(settings, seed), Dataset.open(dataset), settings, seed)
    with bar("test", settings.steps) as progress:
        return [row["loss"] for row in AdversarialEngine(task, settings).train(settings.steps, progress)]

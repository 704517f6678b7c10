"""A PG-GAN on two nodes with two ranks each, one of which is killed; `make proof TARGET=pggan_ranks`, minutes."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_core.runs.files import read_json
from tests.gan_ranks import VALUES, assert_alike, dataset
from tests.pipeline import cxr
from tests.ranks import rank_of, without_log
from tests.slurm.cluster import Cluster
from tests.slurm.tiny import TinyRun

__all__ = ["dataset"]

pytestmark = pytest.mark.proof

# Four processes on two cores: none is to be taken for hung. Batches of whole groups of 4 for each.
RANKS = {"nodes": 2, "per_node": 2, "all_reduce_mib": 4, "silent_seconds": 60}
BATCHES = {"batch_size": 16, "images": 96, "fade_images": 64}


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
    planned = run.cxr("plan", run.config, "--cluster", run.profile, "--runs", run.runs).stdout
    assert "4 ranks (2 x 2): each has 4 of the images of a step" in planned
    array = run.submit()
    cluster.until("the first checkpoint is there", lambda: run.stage.is_done("00000"), 300)
    os.kill(rank_of(run, f"{array}_0-0", 3), signal.SIGKILL)
    run.wait(300)
    (life,) = run.attempts(f"{array}_0")
    assert "rank 3 on" in life.detail
    print(f"\n{without_log(life.detail)}")

    run.finish(300)
    assert run.stage.facts() is not None, run.status() + run.logs()
    most = assert_alike(run.stage.path, tmp_path / "alone" / "tiny" / "real")
    print(f"`cxr submit`, 2 nodes with 2 ranks each, one killed: losses differ by at most {most:.1e} from one process")
    measured = [read_json(path) for path in sorted(run.stage.path.glob("submits/*/*.ranks/preflight.json"))]
    assert {(each["ranks"], each["transport"]) for each in measured} == {(4, "gloo, TCP")}

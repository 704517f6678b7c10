"""20,000 synthetic images of the tiny base through the test cluster with preemptions; `make proof TARGET=produce`."""

import time
from pathlib import Path

import pytest

from cxr_core.data.dataset import Dataset
from tests.slurm.cluster import Cluster
from tests.slurm.production import Production
from tests.slurm.test_production import survive_preemptions

pytestmark = pytest.mark.proof


def test_given_20_000_images_and_preemptions_then_each_is_there_once_as_in_an_undisturbed_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = Production(cluster, tmp_path, num_images=20_000, shard_size=100, num_tasks=12, model="tiny_base")
    start = time.monotonic()
    num = survive_preemptions(run, 6, every=40, seconds=3600)
    dataset = Dataset.open(run.stage.path)
    assert dataset.rows["image_id"].tolist() == [f"syn-{i:08d}" for i in range(20_000)]
    assert dataset.rows["pixel_sha256"].is_unique
    print(f"\n{num} preemptions, {time.monotonic() - start:.0f} s with the undisturbed run\n{run.told()}")
    assert num >= 3

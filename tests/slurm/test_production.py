"""500 synthetic images through a cluster with preemptions; 20,000 are in `make proof TARGET=produce`."""

import json
from pathlib import Path

from cxr_core.data.dataset import Dataset
from tests.slurm.cluster import Cluster
from tests.slurm.production import Production


def survive_preemptions(run: Production, num_preemptions: int, *, every: float, seconds: float) -> int:
    """A production that is whole in spite of preemptions; returns how many there were."""
    try:
        run.submit()
        num = run.preempt_often(num_preemptions, every=every)
        run.finish(seconds)
        run.assert_whole(run.undisturbed())
    finally:
        run.cluster.heal()
    return num


def test_given_500_images_and_preemptions_then_each_is_there_once_as_in_an_undisturbed_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = Production(cluster, tmp_path, num_images=500, shard_size=20, num_tasks=2)
    assert survive_preemptions(run, 1, every=1, seconds=300) == 1
    dataset = Dataset.open(run.stage.path)
    assert dataset.rows["image_id"].tolist() == [f"syn-{i:08d}" for i in range(500)]
    assert dataset.rows["pixel_sha256"].is_unique
    assert {json.loads(text)["draw"] for text in dataset.rows["generation"]} == {0}
    print(f"\n{run.told()}")

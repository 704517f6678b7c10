"""A minute of kills; ten of them are in `make proof TARGET=soak`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.soak import Soak
from tests.slurm.tiny import undisturbed_digest


def soak(cluster: Cluster, folder: Path, *, num_shards: int, seconds: float, seed: int) -> Soak:
    """A soak that was survived: nothing lost, nothing doubled, and the commands stayed small."""
    soak = Soak(cluster, folder, num_shards=num_shards, seed=seed)
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(undisturbed_digest, soak.run.config, folder / "undisturbed")
        try:
            lasted = soak.survive(seconds)
            soak.finish()
            print(f"\nseed {seed}: {soak.told(lasted)}")
            soak.run.assert_whole(digest.result())
        finally:
            cluster.heal()
    assert soak.most_memory < 400, "MiB"
    assert soak.num_squeues <= 4 * (soak.calls.total() + 1)
    return soak


def test_given_a_minute_of_kills_then_no_shard_is_lost_or_doubled(cluster: Cluster, tmp_path: Path) -> None:
    survived = soak(cluster, tmp_path, num_shards=300, seconds=40, seed=4)
    assert survived.done.total() >= 4

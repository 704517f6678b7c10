"""Ten minutes of kills on a run of 2,000 shards; `make proof TARGET=soak`, a quarter of an hour."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.test_soak import soak

pytestmark = pytest.mark.proof


def test_given_ten_minutes_of_kills_then_no_shard_of_2000_is_lost_or_doubled(cluster: Cluster, tmp_path: Path) -> None:
    survived = soak(cluster, tmp_path, num_shards=2000, seconds=600, seed=2026)
    assert survived.done.total() >= 60
    assert set(survived.done) == {"payload", "requeue", "cancel", "preempt", "slurmd"}

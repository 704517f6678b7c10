"""Ten million images, planned, frozen, looked at and indexed, but not drawn; `make proof TARGET=scale`."""

from pathlib import Path

import pytest

from tests.scale import ManyImages

pytestmark = pytest.mark.proof

NUM_IMAGES, SHARD_SIZE = 10_000_000, 1000


def test_given_ten_million_images_plan_freeze_status_and_index_stay_within_a_sites_limits(tmp_path: Path) -> None:
    many = ManyImages(tmp_path, NUM_IMAGES, SHARD_SIZE)
    told, cost = many.plan("--cluster", "generic")
    print(f"\n{told.split('===')[0]}\ncxr plan --cluster generic: {cost}")
    assert cost.seconds < 60
    assert cost.memory < 1024
    told, cost = many.freeze()
    size = (many.stage / "plan" / "requests.parquet").stat().st_size
    print(f"freeze: {told.split()[0]} shards, {size / 1e6:.0f} MB of requests: {cost}")
    assert cost.seconds < 60
    assert cost.memory < 1024
    many.pretend_done([f"{i:05d}" for i in range(9000)])
    told, cost = many.status()
    print(f"cxr status: {cost}\n{told}")
    assert "9000/10000" in told
    assert cost.seconds < 2
    told, cost = many.index()
    size = (many.stage / "index.parquet").stat().st_size
    print(f"index: {told.split()[0]} rows, {size / 1e6:.0f} MB: {cost}")
    assert told.split() == [str(NUM_IMAGES), "0"]
    assert cost.memory < 2048

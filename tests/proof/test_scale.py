"""Ten million images, planned, frozen, looked at and indexed, but not drawn; `make proof TARGET=scale`."""

from pathlib import Path

import pytest

from tests.scale import ManyImages

pytestmark = pytest.mark.proof

NUM_IMAGES, SHARD_SIZE = 10_000_000, 1000


def test_given_ten_million_images_plan_freeze_status_and_index_stay_within_a_sites_limits(tmp_path: Path) -> None:
    many = ManyImages(tmp_path, NUM_IMAGES, SHARD_SIZE)
    told, seconds, memory = many.plan("--cluster", "generic")
    table = told.split("===")[0]
    print(f"\n{table}\ncxr plan --cluster generic: {seconds:.1f} s, {memory:.0f} MiB")
    assert (seconds < 60, memory < 1024) == (True, True)
    told, seconds, memory = many.freeze()
    size = (many.stage / "plan" / "requests.parquet").stat().st_size
    print(f"freeze: {told.split()[0]} shards, {size / 1e6:.0f} MB of requests, {seconds:.1f} s, {memory:.0f} MiB")
    assert (seconds < 60, memory < 1024) == (True, True)
    many.pretend_done([f"{i:05d}" for i in range(9000)])
    told, seconds, memory = many.status()
    print(f"cxr status: {seconds:.2f} s, {memory:.0f} MiB\n{told}")
    assert "9000/10000" in told
    assert seconds < 2
    told, seconds, memory = many.index()
    size = (many.stage / "index.parquet").stat().st_size
    print(f"index: {told.split()[0]} rows, {size / 1e6:.0f} MB, {seconds:.0f} s, {memory:.0f} MiB")
    assert told.split() == [str(NUM_IMAGES), "0"]
    assert memory < 2048

"""Every fault on a real cluster, without and with accounting; `make proof TARGET=faults`."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import faults
from tests.slurm.cluster import Cluster
from tests.slurm.faults import Fault
from tests.slurm.test_faults import survive, survive_a_full_disk, survive_small_arrays

pytestmark = pytest.mark.proof


@pytest.fixture(params=["cluster", "accounted_cluster"], ids=["no accounting", "accounting"])
def either(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest) -> Iterator[None]:
    """The seconds of each fault, as it is survived."""
    start = time.monotonic()
    yield
    print(f"{request.node.name}: {time.monotonic() - start:.0f} s")


@pytest.mark.parametrize("fault", [*faults.FAULTS, *faults.LONG_FAULTS], ids=lambda fault: fault.__name__)
def test_given_a_fault_then_nothing_is_lost_doubled_or_unexplained(
    fault: Fault, either: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    survive(fault, either, tmp_path, tiny_digest)


@pytest.mark.parametrize(("small", "enough"), faults.SMALL_DISKS, ids=["bytes", "inodes"])
def test_given_a_full_disk_then_the_tasks_say_so_and_one_resume_finishes(
    small: str, enough: str, either: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    survive_a_full_disk(small, enough, either, tmp_path, tiny_digest)


@pytest.mark.parametrize("accounting", [False, True], ids=["no accounting", "accounting"])
def test_given_an_array_larger_than_the_cluster_takes_then_the_refusal_says_what_to_set(
    accounting: bool, tmp_path: Path, tiny_digest: str
) -> None:
    survive_small_arrays(tmp_path, tiny_digest, accounting=accounting)

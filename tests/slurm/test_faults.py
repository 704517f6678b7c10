"""A fault on a real cluster, at most one `cxr resume`, and the run is as if nothing had happened; see faults.py."""

import tempfile
from pathlib import Path

import pytest

from tests.conftest import require
from tests.slurm import faults
from tests.slurm.cluster import Cluster, lacking
from tests.slurm.faults import Fault
from tests.slurm.tiny import TinyRun


def survive(fault: Fault, cluster: Cluster, folder: Path, digest: str) -> None:
    """A run, a fault, and what must hold afterwards."""
    run = TinyRun(cluster, folder)
    try:
        fault(run)
        run.assert_whole(digest)
    finally:
        cluster.heal()


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_given_a_fault_then_nothing_is_lost_doubled_or_unexplained(
    fault: Fault, cluster: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    survive(fault, cluster, tmp_path, tiny_digest)


def test_given_accounting_and_six_faults_then_nothing_is_lost_doubled_or_unexplained(
    accounted_cluster: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    survive(faults.six_ends_of_a_task, accounted_cluster, tmp_path, tiny_digest)


def test_given_a_full_disk_then_the_tasks_say_so_and_one_resume_finishes(
    cluster: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    survive_a_full_disk(*faults.SMALL_DISKS[0], cluster, tmp_path, tiny_digest)


def test_given_an_array_larger_than_the_cluster_takes_then_the_refusal_says_what_to_set(
    tmp_path: Path, tiny_digest: str
) -> None:
    survive_small_arrays(tmp_path, tiny_digest)


def survive_a_full_disk(small: str, enough: str, cluster: Cluster, folder: Path, digest: str) -> None:
    with faults.small_disk(folder / "small", small) as (disk, reason):
        require("mount", disk is not None, reason)
        run = TinyRun(cluster, folder, runs=disk)
        try:
            faults.a_full_disk(run, enough)
            run.assert_whole(digest)
        finally:
            cluster.heal()


def survive_small_arrays(folder: Path, digest: str, *, accounting: bool = False) -> None:
    """On a cluster of its own, whose arrays have at most five elements."""
    reason = lacking(accounting=accounting)
    require("slurm", not reason, reason)
    with (
        tempfile.TemporaryDirectory(prefix="cxr-slurm-") as base,
        Cluster(Path(base), num_nodes=1, accounting=accounting, settings={"MaxArraySize": "5"}) as small,
    ):
        survive(faults.an_array_larger_than_the_cluster_takes, small, folder, digest)

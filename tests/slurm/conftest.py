"""Clusters for the tests of this folder: started once a session, stopped at its end."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.slurm import leases
from tests.slurm.cluster import Cluster, lacking
from tests.slurm.tiny import undisturbed_digest, write_config


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm cluster of four nodes without accounting: sacct refuses."""
    yield from _cluster(accounting=False)


@pytest.fixture(scope="session")
def accounted_cluster() -> Iterator[Cluster]:
    """The same with slurmdbd on MariaDB: sacct answers, and there is an account `cxr`."""
    yield from _cluster(accounting=True)


@pytest.fixture(scope="session")
def front(accounted_cluster: Cluster) -> dict[str, str]:
    """The environment of a login node whose own cluster is another one than `accounted_cluster`, named `cxrtest`."""
    return accounted_cluster.start_front()


@pytest.fixture(scope="session")
def tiny_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the tiny run that nothing happened to, made in process."""
    folder = tmp_path_factory.mktemp("tiny")
    return undisturbed_digest(write_config(folder), folder)


def _cluster(*, accounting: bool) -> Iterator[Cluster]:
    reason = lacking(accounting=accounting)
    require("slurm", not reason, reason)
    leases.be_patient()
    # Not below pytest's folders: their names are long for a socket, and closed to other users.
    with tempfile.TemporaryDirectory(prefix="cxr-slurm-") as folder, Cluster(Path(folder), accounting=accounting) as it:
        yield it

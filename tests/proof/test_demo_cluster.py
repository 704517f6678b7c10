"""The demo on a cluster, as processes of this machine and in this one: the same; `make proof TARGET=demo_cluster`.

CXR_DEMO_CHANGES are changes to its config, e.g. fewer steps.
"""

import os
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.test_launchers import digests_by_launcher

pytestmark = pytest.mark.proof


def test_the_demo_has_the_same_digests_whatever_launches_it(cluster: Cluster, tmp_path: Path) -> None:
    changes = os.environ.get("CXR_DEMO_CHANGES", "").split()
    found = digests_by_launcher("demo", cluster, tmp_path, changes, seconds=3600)
    for launcher, digests in found.items():
        print(f"{launcher}: {digests}")
    assert found["cluster"] == found["processes"] == found["in process"]

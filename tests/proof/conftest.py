"""The clusters of tests/slurm, for the proofs that need one."""

from tests.slurm.conftest import accounted_cluster, cluster, tiny_digest

__all__ = ["accounted_cluster", "cluster", "tiny_digest"]

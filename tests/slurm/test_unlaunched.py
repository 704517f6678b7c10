"""A node on which nothing can be launched draws task after task, and Slurm holds them all for ever."""

import tempfile
from pathlib import Path

from tests.conftest import require
from tests.slurm.cluster import Cluster, lacking
from tests.slurm.tiny import TinyRun


def test_given_a_node_whose_prolog_fails_then_resume_sends_the_tasks_that_are_held_to_other_nodes(
    tmp_path: Path, tiny_digest: str
) -> None:
    reason = lacking()
    require("slurm", not reason, reason)
    with tempfile.TemporaryDirectory(prefix="cxr-slurm-") as base:
        prolog = Path(base, "prolog")
        prolog.write_text('#!/bin/sh\n[ "$SLURMD_NODENAME" != n0 ]\n')
        prolog.chmod(0o755)
        with Cluster(Path(base), num_nodes=2, settings={"Prolog": str(prolog)}) as cluster:
            survive_failed_launches(TinyRun(cluster, tmp_path), tiny_digest)


def survive_failed_launches(run: TinyRun, digest: str) -> None:
    array = run.submit()
    run.cluster.until("only what is held, and what waits for it, is left", lambda: _reasons(run) == HELD)
    told = run.resume("--if-needed").stdout
    assert f"task {array}_0 was held by the scheduler, and is cancelled: its launch failed on a node" in told
    assert f"task {array}_0 did not come to its first shard: its launch failed on a node" in run.status()
    run.finish()
    assert run.num_resumes == 1
    run.assert_whole(digest)


HELD = {"launch failed requeued held", "Dependency"}


def _reasons(run: TinyRun) -> set[str]:
    return set(run.cluster.run("squeue", "--noheader", "--format=%r").stdout.splitlines())

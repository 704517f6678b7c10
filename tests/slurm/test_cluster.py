"""The test cluster itself does what the other tests rely on."""

import tempfile
from pathlib import Path

import pytest

from tests.conftest import require
from tests.slurm.cluster import Cluster, lacking, program_of


def test_a_job_runs_on_each_node(cluster: Cluster) -> None:
    jobs = {node: cluster.sbatch("echo $SLURMD_NODENAME", f"--nodelist={node}") for node in cluster.nodes}
    for node, job in jobs.items():
        cluster.wait(job)
        assert cluster.output(job).strip() == node


def test_a_step_spreads_over_all_nodes(cluster: Cluster) -> None:
    done = cluster.run("srun", "--nodes=4", "--ntasks-per-node=1", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(done.stdout.split()) == list(cluster.nodes)


def test_given_gpus_asked_for_then_the_job_sees_which(cluster: Cluster) -> None:
    words = ("bash", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert cluster.run("srun", "--gres=gpu:1", *words).stdout.strip() in ("0", "1")
    assert cluster.run("srun", "--gres=gpu:2", *words).stdout.strip() == "0,1"
    assert cluster.run("srun", *words).stdout.strip() == ""


def test_given_more_gpus_than_a_node_has_then_the_job_is_refused(cluster: Cluster) -> None:
    refused = cluster.run("srun", "--nodes=1", "--gres=gpu:3", "true", check=False)
    assert refused.returncode != 0
    assert "Requested node configuration is not available" in refused.stderr


@pytest.mark.parametrize(("partition", "state"), [("low", "COMPLETED"), ("cancel", "PREEMPTED")])
def test_given_a_high_job_that_needs_the_node_then_the_low_one_is_requeued_or_cancelled(
    cluster: Cluster, partition: str, state: str
) -> None:
    mark = cluster.base / "state" / f"mark-{partition}"
    whole = ("--nodelist=n3", "--exclusive")
    victim = cluster.sbatch(f"[ -e {mark} ] && exit; touch {mark}; sleep 300", f"--partition={partition}", *whole)
    cluster.wait(victim, "RUNNING")
    high = cluster.sbatch("sleep 1", "--partition=high", *whole)
    cluster.wait(high)
    cluster.wait(victim, state)


def test_a_requeued_job_is_back_within_20_seconds(cluster: Cluster) -> None:
    job = cluster.sbatch('echo "start ${SLURM_RESTART_COUNT:-0}"; [ "$SLURM_RESTART_COUNT" = 1 ] || sleep 300')
    cluster.wait(job, "RUNNING")
    cluster.run("scontrol", "requeue", job)
    assert cluster.wait(job, "COMPLETED", 30) < 20
    assert "start 1" in cluster.output(job)


def test_without_accounting_sacct_refuses(cluster: Cluster) -> None:
    done = cluster.run("sacct", check=False)
    assert done.returncode != 0
    assert "accounting storage is disabled" in done.stderr


def test_with_accounting_sacct_tells_how_a_job_ended(accounted_cluster: Cluster) -> None:
    job = accounted_cluster.sbatch("exit 3", "--account=cxr")
    accounted_cluster.wait(job, "FAILED")
    words = ("sacct", "-n", "-X", "-P", "-j", job, "-o", "state,exitcode,account")
    accounted_cluster.until("sacct knows", lambda: "FAILED|3:0|cxr" in accounted_cluster.run(*words).stdout)


def test_given_a_job_that_ignores_its_end_then_no_process_is_left_behind() -> None:
    reason = lacking()
    require("slurm", not reason, reason)
    with tempfile.TemporaryDirectory(prefix="cxr-slurm-") as folder:
        with Cluster(Path(folder), num_nodes=2) as cluster:
            job = cluster.sbatch("trap '' TERM; sleep 1000 & echo $!; wait; wait", "--nodelist=n0")
            cluster.wait(job, "RUNNING")
            cluster.until("the job has begun", lambda: bool(cluster.output(job)))
            cluster.kill_slurmd("n0")
            started = [*cluster.daemons().values(), *cluster.strays(), int(cluster.output(job))]
            assert len(started) > 4
        assert [pid for pid in started if program_of(pid)] == []
        assert cluster.strays() == []

"""Jobs are looked for where they were sent: in another cluster than that of the login node, by the user's number, and
whatever a site prints around the answer of sbatch."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_core.runs.accounting import Accounting
from cxr_core.runs.facts import StageFacts
from cxr_core.runs.follow_up import follow_up
from cxr_core.runs.ledger import AttemptRecord
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, submit_folders
from jobs.remaining import asking_otherwise
from slurm.accounting import refresh
from slurm.packs import StageWork
from slurm.profile import ClusterProfile
from tests.slurm.cluster import Cluster
from tests.slurm.tiny import TinyRun

THERE = "clusters: cxrtest\n"
HELD = "sbatch: ['--hold']\n"

DISGUISE = {
    "LOGNAME": "nobody",
    "USER": "nobody",
    "USERNAME": "nobody",
    "SLURM_CLUSTERS": "cxrfront",
    "SBATCH_CLUSTERS": "cxrfront",
    "SBATCH_ARRAY_INX": "7",
    "SBATCH_JOB_NAME": "mine",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_STATES": "COMPLETED",
    "SQUEUE_USERS": "nobody",
    "SLURM_TIME_FORMAT": "relative",
    "SACCT_FORMAT": "State",
    "SCANCEL_STATE": "RUNNING",
    "SCONTROL_FUTURE": "1",
}
"""What a shell may hold that would lead Slurm's commands astray."""


@pytest.fixture
def run(accounted_cluster: Cluster, front: dict[str, str], tmp_path: Path) -> Iterator[TinyRun]:
    """A run whose user is logged in to another cluster."""
    run = TinyRun(accounted_cluster, tmp_path)
    run.env |= {"SLURM_CONF": front["SLURM_CONF"]} | DISGUISE
    yield run
    accounted_cluster.heal()


def submit_again(run: TinyRun) -> subprocess.CompletedProcess[str]:
    return run.cxr("submit", run.config, "--cluster", run.profile, "--runs", run.runs)


def test_given_another_cluster_and_a_shell_full_of_variables_then_jobs_are_found_waited_for_and_cancelled(
    run: TinyRun,
) -> None:
    run.write_profile(more=THERE + HELD)
    array = run.submit()
    sent = set(run.queue())
    assert {submit.slurm_cluster for submit in run.submits} == {"cxrtest"}
    again = submit_again(run)
    assert f"in the queue already: {array};cxrtest, " in again.stdout
    assert "nothing to submit" in again.stdout
    assert "SBATCH_CLUSTERS=cxrfront of this shell is not used: jobs go to cxrtest" in again.stdout
    assert set(run.queue()) == sent
    dependency = run.cluster.run("squeue", "--noheader", f"--jobs={run.submits[1].job_id}", "--format=%E").stdout
    assert array in dependency
    busy = run.cxr("resume", run.root)
    assert f"jobs of this run are still in the queue: {array};cxrtest, " in busy.stderr
    # The profile may say another thing by now: what was sent stays where it is.
    run.write_profile(more=HELD)
    moved = submit_again(run)
    assert moved.returncode == 2
    assert f"in the queue of cluster cxrtest: {array};cxrtest, " in moved.stderr
    assert "set `clusters: cxrtest` in the profile" in moved.stderr
    assert f"cancelled: {array};cxrtest, " in run.cxr("cancel", run.root).stdout
    assert not run.queue()


def test_given_records_that_do_not_say_where_jobs_are_then_the_profile_says_it_and_they_are_completed(
    run: TinyRun,
) -> None:
    run.write_profile(more=THERE + HELD)
    array = run.submit()
    folders = submit_folders(run.stage.path)
    for folder in folders:
        replace(Submit.read(folder), job_id=None, slurm_cluster="").write(folder)
    run.write_profile(more="sbatch: ['--clusters=cxrtest']\n")
    refused = run.cxr("cancel", run.root, "--cluster", run.profile)
    assert (refused.returncode, "set clusters:" in refused.stderr) == (2, True)
    run.write_profile(more=THERE + HELD)
    assert f"cancelled: {array};cxrtest, " in run.cxr("cancel", run.root, "--cluster", run.profile).stdout
    assert {(Submit.read(folder).slurm_cluster) for folder in folders} == {"cxrtest"}
    assert not run.queue()


def test_given_another_cluster_then_a_run_there_is_whole_and_its_accounts_are_asked_there(
    run: TinyRun, tiny_digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_profile(more=THERE)
    array = run.submit()
    run.wait()
    run.assert_whole(tiny_digest)
    for name in ("SLURM_CONF", *DISGUISE):
        monkeypatch.setenv(name, run.env[name])
    tasks = {f"{array}_{i}" for i in range(6)}
    run.cluster.until("the accounts know all tasks", lambda: ended(refresh(Run.open(run.root), max_age=0)) == tasks)


def ended(accounting: Accounting) -> set[str]:
    """Tasks that the accounts know to have ended."""
    return {start.job for start in accounting.starts if start.end}


def test_given_a_name_of_no_cluster_then_it_is_said_and_the_right_one_goes_on(run: TinyRun) -> None:
    run.write_profile(more=HELD + "clusters: atlantis\n")
    wrong = submit_again(run)
    assert wrong.returncode == 2
    assert "No cluster 'atlantis' known by database" in wrong.stderr
    assert "-> set `clusters` in the profile to a name that `sacctmgr show clusters` lists" in wrong.stderr
    doctor = run.cxr("doctor", "--cluster", run.profile, "--runs", run.folder)
    assert "-> set `clusters:` in the profile to one of: cxrfront, cxrtest" in doctor.stdout
    run.write_profile(more=HELD + THERE)
    assert run.submit()
    assert len(run.queue()) == 2


def test_doctor_asks_the_cluster_that_the_profile_names(run: TinyRun) -> None:
    run.write_profile(more=THERE + "exclude: n[0,8-9]\n")
    wrong = run.cxr("doctor", "--cluster", run.profile, "--runs", run.folder).stdout
    assert "Invalid node name specified" in wrong
    assert "-> correct `exclude:` in the profile: the cluster has no n8, n9" in wrong
    run.write_profile(more=THERE + "exclude: n[0-1]\n", limit="08:00")
    right = run.cxr("doctor", "--cluster", run.profile, "--runs", run.folder)
    assert right.returncode == 0, right.stdout
    assert "n2 and n3 saw a new folder" in right.stdout
    assert 'stages.preprocess.time: "08:00" is 8 min to Slurm' in right.stdout
    assert '-> for hours and minutes write "08:00:00"' in right.stdout


@pytest.fixture
def local(accounted_cluster: Cluster, tmp_path: Path) -> Iterator[TinyRun]:
    """A run in the cluster of its login node."""
    yield TinyRun(accounted_cluster, tmp_path)
    accounted_cluster.heal()


BANNERS = {
    "before": 'echo "Your 3 projects have 1200 hours; job 17 was refused"; echo 42; exec /usr/bin/sbatch "$@"',
    "around": '/usr/bin/sbatch "$@" && { echo "2 jobs of 5000"; echo 99; }',
    "doubtful": 'echo 42; exec /usr/bin/sbatch --parsable "$@"',
    "mute": '/usr/bin/sbatch "$@" > /dev/null',
}


@pytest.mark.parametrize("site", BANNERS)
def test_given_a_site_that_prints_around_the_answer_of_sbatch_then_ids_and_dependencies_are_right(
    local: TinyRun, site: str
) -> None:
    local.program("sbatch", BANNERS[site])
    local.write_profile(more=HELD)
    array = local.submit()
    lines = local.cluster.run("squeue", "--noheader", "--format=%F %E").stdout.splitlines()
    shards, finalize = sorted((line.split() for line in lines), key=lambda words: int(words[0]))
    assert (array, local.submits[1].job_id) == (shards[0], finalize[0])
    assert f"afterany:{array}_*" in finalize[1]


def test_given_a_site_whose_sbatch_chooses_the_cluster_then_its_answer_says_where_jobs_are(run: TinyRun) -> None:
    run.program("sbatch", 'exec /usr/bin/sbatch --parsable --clusters=cxrtest "$@"')
    run.write_profile(more=HELD)
    array = run.submit()
    assert run.submits[1].waits_for == (array,)
    assert "nothing to submit" in run.cxr("resume", run.root, "--if-needed").stdout
    assert f"cancelled: {array};cxrtest, " in run.cxr("cancel", run.root).stdout
    assert not run.queue()


def lost(node: str, when: float) -> AttemptRecord:
    """An attempt whose node died."""
    return AttemptRecord("real", node, Path(node), "lost", when, when, "node failure", node=node, job="1_0")


def test_given_nodes_that_failed_then_at_most_half_of_those_that_a_task_may_use_are_left_out(
    local: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", local.env["SLURM_CONF"])
    local.write_profile(more=HELD)
    local.submit()
    now = (local.stage.path / "submits").stat().st_mtime
    nodes = ("n2", "n3", "of-another-cluster")
    dead = [lost(node, now + number) for number, node in enumerate(nodes)]
    profile = ClusterProfile(name="x", partition="low", exclude="n[0-1]")
    work = StageWork("real", "preprocess", 1, 48, 24)
    (found,), lines = asking_otherwise([work], profile, follow_up([StageFacts("real", dead)], now + 60))
    assert found.changes["exclude"] == found.control_changes["exclude"] == "n[0-1],n3"
    assert lines == ["node n3 is left out: node failure"]


def test_given_a_user_without_a_name_then_the_queue_is_asked_by_number(cluster: Cluster) -> None:
    code = "from slurm.queue import num_queued, queued; print(queued(), num_queued())"
    other = cluster.sbatch("true", "--hold")
    drop = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    job = cluster.run(*drop, "sbatch", "--parsable", "--hold", "--output=/dev/null", "--job-name=ours", "--wrap=true")
    told = cluster.run(*drop, sys.executable, "-c", code)
    cluster.run("scancel", other, job.stdout.strip())
    assert not cluster.run("squeue", "--noheader").stdout
    assert told.stdout == f"{{'ours': '{job.stdout.strip()}'}} 1\n"

"""`cxr doctor` on a real cluster: the good case, and each failure that can be made on one machine."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, require
from tests.pipeline import cxr
from tests.slurm.cluster import Cluster, lacking


@pytest.fixture
def runs() -> Iterator[Path]:
    """A folder of runs that other users may walk into; nothing of doctor may be left in it."""
    with tempfile.TemporaryDirectory(prefix="cxr-runs-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def environ_of(cluster: Cluster, **changes: str) -> dict[str, str]:
    kept = {name: value for name, value in cluster.env.items() if name != "PYTHONPATH"}
    return kept | {"PYTHONPATH": str(REPOSITORY), **changes}


def findings(text: str) -> dict[str, list[str]]:
    """Name of a check -> its lines, level first, with the mend below appended."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines()[:-1]:
        if line.startswith(" "):
            found[name][-1] += line
        else:
            name = line[6:20].strip()
            found.setdefault(name, []).append(f"{line[:5].strip()} {line[20:]}")
    return found


def examine(
    cluster: Cluster, runs: Path, *words: str | Path, status: int = 0, environ: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    done = cxr("doctor", "--runs", runs, *words, env=dict(environ or environ_of(cluster)), timeout=180)
    assert done.returncode == status, done.stdout + done.stderr
    return findings(done.stdout)


def profile(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def failed(found: Mapping[str, list[str]]) -> list[str]:
    return [name for name, lines in found.items() if any(line.startswith("fail") for line in lines)]


def test_given_a_cluster_that_is_well_then_nothing_fails_and_nothing_is_left(cluster: Cluster, runs: Path) -> None:
    found = examine(cluster, runs)
    assert found["controller"][0].startswith("ok Slurmctld(primary)")
    assert found["munge"] == ["ok a credential was made"]
    assert " and " in found["nodes"][0]
    assert [line[:2] for line in found["visibility"]] == ["ok", "ok"]
    assert found["links"] == ["ok of 2 link(s) to one name at once exactly one was made"]
    assert found["clocks"][0].startswith("ok")
    assert found["node python"] == [f"ok the nodes have {sys.executable}"]
    assert "REQUEUE after 5 s" in found["preemption"][0]
    assert found["requeue"] == ["ok jobs are requeued by default; one comes back after 5 s or more"]
    assert list(runs.iterdir()) == []
    assert cluster.run("squeue", "-h", "-n", "cxr-doctor", "-t", "pending,running").stdout == ""


def test_a_run_folder_with_a_space_a_quote_and_a_newline_is_examined(cluster: Cluster, runs: Path) -> None:
    odd = runs / "a b'c\nd %j"
    odd.mkdir()
    done = cxr("doctor", "--runs", odd, env=environ_of(cluster))
    assert done.returncode == 0, done.stdout
    assert "exactly one was made" in done.stdout


def test_without_accounting_it_warns_and_with_it_says_so(
    cluster: Cluster, accounted_cluster: Cluster, runs: Path
) -> None:
    assert examine(cluster, runs)["accounting"][0].startswith("warn no accounting on this cluster")
    assert examine(accounted_cluster, runs)["accounting"] == ["ok sacct answers (slurmdbd)"]


def test_given_a_wrong_partition_then_it_names_those_there_are(cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    found = examine(cluster, runs, "--cluster", profile(tmp_path, "inherits: base\npartition: nope\n"), status=1)
    assert failed(found) == ["submit", "nodes"]
    assert "Invalid partition name specified" in found["submit"][0]
    assert found["submit"][0].endswith("-> set `partition:` in the profile to one of: cancel, high, low")
    assert "preemption" not in found


def test_given_a_wrong_account_then_it_names_yours(accounted_cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    wrong = profile(tmp_path, "inherits: base\naccount: nope\n")
    found = examine(accounted_cluster, runs, "--cluster", wrong, status=1)
    assert failed(found) == ["submit", "nodes"]
    assert "Invalid account" in found["submit"][0]
    assert found["submit"][0].endswith("-> set `account:` in the profile to one of yours: cxr, root")


def test_given_more_memory_than_a_node_has_then_it_tells_what_there_is(
    cluster: Cluster, runs: Path, tmp_path: Path
) -> None:
    found = examine(cluster, runs, "--cluster", profile(tmp_path, "inherits: base\nmem: 900G\n"), status=1)
    assert "low: 8 CPUs, 4000 MB, gpu:2" in found["submit"][0]


def test_given_limits_above_the_clusters_then_it_writes_the_lines(cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    text = 'inherits: base\nmax_array_size: 5000\nmax_submit: 9000\ntime: "5-00:00:00"\n'
    found = examine(cluster, runs, "--cluster", profile(tmp_path, text), status=1)
    size, submit, *time = found["limits"]
    assert size.endswith("-> set `max_array_size: 1001` in the profile")
    assert submit.endswith("-> set `max_submit: 5000` in the profile")
    assert "more than partition low allows (2-00:00:00)" in time[0]


def test_given_a_submit_limit_of_the_account_then_it_is_found(
    accounted_cluster: Cluster, runs: Path, tmp_path: Path
) -> None:
    modify = ("sacctmgr", "-i", "modify", "user", "root", "where", "account=cxr", "set")
    accounted_cluster.run(*modify, "MaxSubmitJobs=7")
    try:
        mine = profile(tmp_path, "inherits: base\naccount: cxr\n")
        found = examine(accounted_cluster, runs, "--cluster", mine, status=1)
        assert found["limits"][1].endswith("-> set `max_submit: 7` in the profile")
    finally:
        accounted_cluster.run(*modify, "MaxSubmitJobs=-1")


def test_given_variables_of_a_surrounding_job_then_they_are_named_and_do_not_disturb(
    cluster: Cluster, runs: Path
) -> None:
    leaks = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "9", "SBATCH_PARTITION": "nope", "SQUEUE_FORMAT": "%i"}
    found = examine(cluster, runs, environ=environ_of(cluster, **leaks))
    (told,) = found["variables"]
    names = "SBATCH_PARTITION, SLURM_JOB_ID, SLURM_NTASKS, SQUEUE_FORMAT"
    assert told.startswith(f"warn set in this shell: {names} (this shell is inside a job)")
    assert told.endswith("-> leave the job's shell; what you submit by hand inherits them")
    assert failed(found) == []
    assert "nodes" in found


def test_given_a_run_folder_that_cannot_be_written_then_it_fails(cluster: Cluster, runs: Path) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", runs], capture_output=True, check=False)
    require("mount", done.returncode == 0, f"this user may not mount a tmpfs: {done.stderr!r}")
    try:
        found = examine(cluster, runs, status=1)
        assert found["run folder"][0].startswith(f"fail cannot write to {runs} (Read-only file system)")
        assert found["run folder"][0].endswith("--runs DIR")
    finally:
        subprocess.run(["umount", runs], check=True)


def test_given_a_run_folder_that_the_nodes_do_not_share_then_it_fails(cluster: Cluster, runs: Path) -> None:
    command = f'mount -t tmpfs none "$1" && exec "{sys.executable}" -m jobs.cli doctor --runs "$1"'
    unshared = ["unshare", "--mount", "bash", "-c"]
    able = subprocess.run([*unshared, 'mount -t tmpfs none "$1"', "bash", runs], capture_output=True, check=False)
    require("mount", able.returncode == 0, f"this user may not mount a tmpfs: {able.stderr!r}")
    done = subprocess.run(
        [*unshared, command, "bash", runs],
        env=environ_of(cluster),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = findings(done.stdout)
    assert failed(found) == ["nodes"]
    assert f"none of its files appeared in {runs}" in found["nodes"][0]
    assert "choose a folder that the nodes share" in found["nodes"][0]


def test_given_no_free_node_then_it_warns_and_takes_its_job_back(cluster: Cluster, runs: Path) -> None:
    blocker = cluster.sbatch("sleep 300", "--nodes=4", "--exclusive", "--partition=high")
    cluster.wait(blocker, "RUNNING")
    try:
        found = examine(cluster, runs, "--wait", "3")
        assert found["nodes"][0].startswith("warn no node was free for a small job within 3 s (")
        assert "links" not in found
        assert cluster.run("squeue", "-h", "-n", "cxr-doctor").stdout == ""
    finally:
        cluster.run("scancel", blocker)


def test_given_a_scratch_that_cannot_be_made_then_it_fails(cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    text = "inherits: base\nscratch: /proc/scratch-$SLURM_JOB_ID\n"
    found = examine(cluster, runs, "--cluster", profile(tmp_path, text), status=1)
    assert failed(found) == ["scratch"]
    assert "cannot write to /proc/scratch-" in found["scratch"][0]


def test_given_setup_lines_that_end_the_job_then_what_it_said_is_told(
    cluster: Cluster, runs: Path, tmp_path: Path
) -> None:
    text = "inherits: base\nsetup: ['echo no such module >&2; exit 3']\n"
    found = examine(cluster, runs, "--cluster", profile(tmp_path, text), status=1)
    assert "ended as FAILED: no such module" in found["nodes"][0]


def test_given_no_controller_then_it_says_so_and_asks_no_further() -> None:
    reason = lacking()
    require("slurm", not reason, reason)
    with (
        tempfile.TemporaryDirectory(prefix="cxr-slurm-") as folder,
        Cluster(Path(folder), num_nodes=1) as broken,
    ):
        broken.stop_slurmctld()
        found = examine(broken, Path(folder), status=1)
    assert failed(found) == ["controller"]
    assert "DOWN" in found["controller"][0]
    assert "submit" not in found


def test_given_no_munge_then_the_controller_is_out_of_reach_and_it_says_why() -> None:
    reason = lacking()
    require("slurm", not reason, reason)
    with (
        tempfile.TemporaryDirectory(prefix="cxr-slurm-") as folder,
        Cluster(Path(folder), num_nodes=1) as broken,
    ):
        os.kill(broken.daemons()["munged"], 15)
        broken.until("munged is gone", lambda: broken.pid("munged") is None)
        found = examine(broken, Path(folder), status=1)
    assert failed(found) == ["controller"]
    assert "munge" in found["controller"][0].lower()
    assert found["controller"][0].endswith("-> munged must run here: ask your administrators")

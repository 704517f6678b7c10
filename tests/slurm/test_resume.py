"""`cxr resume` after memory ran out and a node died, in a folder whose name Slurm would expand; and what it asks of
the scheduler."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import cxr_with_memory
from tests.slurm.cluster import Cluster, program_of
from tests.slurm.faults import kill_stepd
from tests.slurm.tiny import TinyRun

EXPANDED = "100%A of %j \\x"
"""Patterns of Slurm's file names, and the backslash that takes them their meaning."""


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[TinyRun]:
    run = TinyRun(cluster, tmp_path, runs=tmp_path / EXPANDED)
    yield run
    cluster.heal()


def count_calls(run: TinyRun, name: str) -> Path:
    """A file with a line for each call of one of Slurm's commands."""
    calls = run.folder / f"{name}.calls"
    run.program(name, f'echo >> "{calls}"\nexec /usr/bin/{name} "$@"')
    return calls


def die(run: TinyRun, task: str) -> None:
    """kill -9 the payload of a task."""
    process = run.process(task)
    os.kill(process, signal.SIGKILL)
    run.cluster.until("it is dead", lambda: not program_of(process))


def test_given_a_kill_for_memory_and_a_dead_node_then_resume_asks_for_more_memory_on_other_nodes_and_says_so(
    run: TinyRun, tiny_digest: str
) -> None:
    run.write_profile(more="max_mem: 2G\n")
    calls = count_calls(run, "squeue")
    memory, node = run.hold(5), run.hold(9)
    array = run.submit()
    assert len(calls.read_text().splitlines()) <= 3
    run.until_awaited(memory, node)
    log = run.stage.path / "submits" / "0001" / f"{array}_1.out"
    with log.open("a") as file:
        file.write("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0.\n")
    die(run, f"{array}_1")
    dead = run.node(f"{array}_2")
    run.cluster.kill_slurmd(dead)
    kill_stepd(run.cluster, str(run.attempts(f"{array}_2")[-1].beat["job_id"]))
    die(run, f"{array}_2")
    memory.mend()
    node.mend()
    run.wait()
    assert f"on {run.node(f'{array}_1')} was killed: out of memory in shard 00005" in run.status()
    run.cluster.start_slurmd(dead)

    told = run.resume().stdout
    assert "real: shard 00005 was out of memory: mem raised from 1900M to 2G" in told
    assert f"node {dead} is left out: node failure" in told
    last = run.submits[-1]
    assert last.raised == {"mem": "2G", "exclude": dead}
    shown = run.cluster.run("scontrol", "show", "job", str(last.job_id)).stdout
    assert "MinMemoryNode=2G" in shown
    assert f"ExcNodeList={dead}" in shown
    run.wait()
    run.assert_whole(tiny_digest)
    report = run.report()
    assert "killed in shard 00005: out of memory" in report
    assert "lost in shard 00009: node failure" in report
    assert all(run.logs().count(f"--- {array}_{i}.out") == 1 for i in range(6))


def test_given_nodes_that_may_not_submit_then_cron_finishes_the_run_and_asks_little(
    run: TinyRun, tiny_digest: str
) -> None:
    calls = count_calls(run, "squeue")
    image = run.hold(5)
    array = run.submit("--auto-resume", "3")
    run.until_awaited(image)
    for _ in range(2):
        assert "in the queue already" in run.cxr("resume", run.root, "--if-needed").stdout
    run.program("sbatch", 'echo "sbatch: error: Access/permission denied" >&2; exit 1')
    image.mend()
    run.cluster.run("scancel", f"{array}_1")
    run.wait()
    assert "auto-resume: 0 of 3 times; sbatch: sbatch: error: Access/permission denied" in run.status()
    assert f"`cxr resume {run.root} --if-needed` goes on" in run.status()

    (run.bin / "sbatch").unlink()
    before = len(calls.read_text().splitlines())
    told = [run.cxr("resume", run.root, "--if-needed").stdout for _ in range(3)]
    assert "shards" in told[0]
    assert len(calls.read_text().splitlines()) - before <= 12
    run.wait()
    run.assert_whole(tiny_digest)
    assert "nothing to submit" in run.cxr("resume", run.root, "--if-needed").stdout
    assert [submit.does for submit in run.submits if submit.job_id] == [
        ("shards",),
        ("finalize",),
        ("shards", "finalize"),
    ]


def test_given_a_plan_of_a_hundred_thousand_shards_then_the_launcher_needs_little_memory(tmp_path: Path) -> None:
    config = tmp_path / "large.yaml"
    config.write_text(LARGE)
    status, told, memory = cxr_with_memory("plan", config, "--cluster", "generic", "--runs", tmp_path)
    assert status == 0, told
    assert memory < 400, "MiB"


LARGE = """\
name: large
stages:
  - name: real
    kind: preprocess
    data: {kind: phantom, num_images: 100000}
    size: 64
    shard_size: 1
"""

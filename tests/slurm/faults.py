"""The faults: what schedulers, nodes, disks and people do to a run. Each is a function of a run that is not sent yet.

It injects the fault, lets the run finish with at most one `cxr resume`, and checks that the cause is named. That
nothing is lost, doubled or changed is checked by who calls it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.slurm.cluster import Cluster, program_of
from tests.slurm.tiny import TinyRun


def six_ends_of_a_task(run: TinyRun) -> None:
    """One task each is requeued from outside, cancelled, killed and preempted; the daemon of a node dies and, of its
    last task, the process that watches over it too: their payloads go on beside those that are started elsewhere."""
    held = [run.hold(shard) for shard in (1, 5, 9, 12, 17, 21)]
    array = run.submit()
    tasks = [f"{array}_{i}" for i in range(6)]
    run.until_awaited(*held)

    survivors = {task: run.process(task) for task in tasks[4:]}
    node = run.node(tasks[4])
    run.cluster.kill_slurmd(node)
    kill_stepd(run.cluster, str(run.attempts(tasks[5])[-1].beat["job_id"]))
    run.cluster.run("scontrol", "requeue", tasks[0])
    run.cluster.run("scancel", tasks[1])
    os.kill(run.process(tasks[2]), signal.SIGKILL)
    for image in (*held[:3], *held[4:]):
        image.mend()
    preempt(run, tasks[3])
    held[3].mend()
    run.cluster.until("both are made elsewhere", lambda: {"00017", "00021"} <= run.stage.done())
    assert [program_of(process) != "" for process in survivors.values()] == [True, True], "two live writers"
    for image in held[4:]:
        image.release()
    run.cluster.until("they have ended", lambda: not any(map(program_of, survivors.values())))
    run.cluster.start_slurmd(node)

    run.wait()
    status = run.status()
    assert "was ended by the scheduler: cancelled in shard 00005" in status
    assert "lost with a killed process: 00005, 00009" in status
    run.finish()
    report = run.report()
    assert "killed in shard 00001: requeued from outside" in report
    assert "killed in shard 00005: cancelled" in report
    assert "killed in shard 00009" in report
    assert "killed in shard 00012: preemption" in report
    for task in tasks[4:]:
        first, second = run.attempts(task)
        seen = (first.outcome, second.outcome)
        assert seen == ("done", "done"), f"{task}: {seen}, {first.detail}\n{run.logs()}"
        # One for certain; more where the two were at the same shard again.
        assert first.num_duplicates >= 1


def a_time_limit_and_a_preemption_that_cancels(run: TinyRun) -> None:
    """At its time limit a task gives up its shard and goes on in the next. Another one, whose node is taken by a
    partition with priority, does not come back."""
    run.write_profile(partition="cancel", limit="00:01:00", grace=20)
    limited, taken = run.hold(2), run.hold(12)
    array = run.submit()
    run.until_awaited(limited, taken)
    preempt(run, f"{array}_3")
    taken.mend()
    log = run.stage.path / "submits" / "0001" / f"{array}_0.out"
    run.cluster.until("the shard is given up", lambda: f"requeue {array}_0" in log.read_text())
    limited.mend()
    run.wait()
    assert "was ended by the scheduler: preemption in shard 00012" in run.status()
    run.finish()
    assert run.num_resumes == 1
    assert "killed in shard 00002: requeued: a shard was not done in time" in run.report()
    assert "killed in shard 00012: preemption" in run.report()


def a_shard_longer_than_the_time_limit(run: TinyRun) -> None:
    """A task that made nothing since it started does not come back for ever: it ends, and why is said. The next one
    gets twice the time."""
    run.write_profile(limit="00:01:00", more="max_time: '00:30:00'\n")
    image = run.hold(20)
    run.submit()
    run.until_awaited(image)
    run.wait(180)
    assert "was ended by the scheduler: time limit in shard 00020" in run.status()
    image.mend()
    told = run.resume().stdout
    assert "real: shard 00020 took longer than the time limit: time raised from 00:01:00 to 00:02:00" in told
    assert "TimeLimit=00:02:00" in run.cluster.run("scontrol", "show", "job", str(run.submits[-1].job_id)).stdout
    run.wait()
    assert "timed out in shard 00020: time limit" in run.report()


def a_controller_that_is_away(run: TinyRun, seconds: float = 5) -> None:
    """During submit, which waits for it, and during status, which does not need it; the tasks go on without it."""
    image = run.hold(1)
    run.cluster.stop_slurmctld()
    words = ["submit", run.config, "--cluster", run.profile, "--runs", run.runs]
    with subprocess.Popen([sys.executable, "-m", "jobs.cli", *words], env=run.env, stdout=subprocess.DEVNULL) as submit:
        time.sleep(seconds)
        assert submit.poll() is None, "submit did not wait"
        run.cluster.start_slurmctld()
        assert submit.wait(120) == 0
    run.until_awaited(image)
    run.cluster.stop_slurmctld()
    assert "running" in run.status()
    image.mend()
    image.release()
    first_pack = {"00000", "00001", "00002", "00003"}
    run.cluster.until("the task goes on without it", lambda: first_pack <= run.stage.done())
    time.sleep(seconds)
    run.cluster.start_slurmctld()
    run.finish()
    assert run.num_resumes == 0


def a_controller_that_is_away_for_longer(run: TinyRun) -> None:
    """As long as its restart on a large cluster takes."""
    a_controller_that_is_away(run, 30)


def commands_that_lie(run: TinyRun) -> None:
    """sbatch submits and says that it did not; sacct talks nonsense, and later is not there at all."""
    run.program(
        "sbatch", f'{shutil.which("sbatch")} "$@" > /dev/null\necho "sbatch: error: Socket timed out" >&2\nexit 1'
    )
    run.program("sacct", 'echo "12345|FAILED|NODE_FAIL|||||\\n\\000garbage"')
    image = run.hold(20)
    array = run.submit()
    listed = run.cluster.run("squeue", "--noheader", "--states=all", "--format=%F %j").stdout.splitlines()
    for submit in run.submits:
        name = submit.job_name("tiny")
        assert {line.split()[0] for line in listed if line.endswith(name)} == {submit.job_id}
    run.until_awaited(image)
    run.cluster.run("scancel", f"{array}_5")
    image.mend()
    run.wait()
    assert "was ended by the scheduler: cancelled in shard 00020" in run.status()
    run.hide("sacct")
    run.finish()
    assert run.num_resumes == 1


def an_array_larger_than_the_cluster_takes(run: TinyRun) -> None:
    """A profile that promises too much is refused with the mend; nothing is queued; corrected, the packs are larger."""
    run.write_profile(minutes=ONE_SHARD)
    refused = run.cxr("submit", run.config, "--cluster", run.profile, "--runs", run.runs)
    assert refused.returncode == 2
    assert "sbatch: error: Batch job submission failed: Invalid job array specification" in refused.stderr
    assert "-> set `max_array_size` in the profile to MaxArraySize of `scontrol show config`" in refused.stderr
    assert not run.queue()
    run.write_profile(minutes=ONE_SHARD, more="max_array_size: 4\n")
    run.submit()
    assert run.submits[-2].num_tasks == 4
    run.finish()
    assert run.num_resumes == 0


def a_stage_before_that_failed(run: TinyRun) -> None:
    """Nothing pends for ever: each later job starts, says what it lacks, and ends."""
    run.add_stage(VAE)
    held = [run.hold(shard) for shard in range(0, 24, 4)]
    array = run.submit()
    run.until_awaited(*held)
    run.cluster.run("scancel", array)
    for image in held:
        image.mend()
    run.wait()
    assert "stage 'real' lacks 24 of 24 shards: 00000, " in run.logs()
    assert "stage 'real' lacks 24 of 24 shards: 00000, " in run.logs("vae")
    run.finish()
    assert run.root.joinpath("vae", "stage.json").exists(), run.logs("vae")


ONE_SHARD = 1 / 60
"""Minutes of a pack of one shard: 24 tasks."""

VAE = """\
  - {name: vae, kind: train, threads: 1, model: vae, preset: nano, inputs: {dataset: real}, steps: 2, batch_size: 4,
     learning_rate: 0.001, checkpoint_every: 2, validation_images: 0}
"""


def damaged_files(run: TinyRun) -> None:
    """A truncated tar, a flipped byte, a truncated receipt: found, set aside, and only these shards are made again."""
    run.submit()
    run.wait()
    before = {path.name: path.stat().st_mtime_ns for path in run.stage.path.glob("receipts/*.json")}
    tars = [run.stage.receipt(shard).path(run.stage.path, "tar") for shard in ("00003", "00010")]
    tars[0].write_bytes(tars[0].read_bytes()[:-700])
    content = bytearray(tars[1].read_bytes())
    content[700] ^= 1
    tars[1].write_bytes(content)
    receipt = run.stage.path / "receipts" / "00017.json"
    receipt.write_text(receipt.read_text()[:60])

    found = run.cxr("verify", run.root)
    assert found.returncode == 2
    for words in ("bytes, ", "another sha256 than recorded", "00017.json: damaged"):
        assert words in found.stdout
    repaired = run.cxr("verify", run.root, "--repair")
    assert "shards 00017, 00003, 00010" in repaired.stdout, repaired.stdout
    run.finish()
    assert run.num_resumes == 1
    after = {path.name: path.stat().st_mtime_ns for path in run.stage.path.glob("receipts/*.json")}
    assert {name for name in after if after[name] != before[name]} == {"00003.json", "00010.json", "00017.json"}


def two_launchers(run: TinyRun) -> None:
    """Two submits at once, and a run in process beside the tasks: one set of jobs, and two writers of some shards."""
    held = [run.hold(shard) for shard in (0, 20)]
    command = [sys.executable, "-m", "jobs.cli", "submit", run.config, "--cluster", run.profile, "--runs", run.runs]
    both = [
        subprocess.Popen(command, env=run.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [launcher.communicate(timeout=60) for launcher in both]
    states = sorted(launcher.returncode for launcher in both)
    assert states == [0, 2] or (states == [0, 0] and any("nothing to submit" in out for out, _ in told))
    assert states == [0, 0] or any("another cxr works in this run" in error for _, error in told)
    assert [submit.does for submit in run.submits] == [("shards",), ("finalize",)]

    run.until_awaited(*held)
    for image in held:
        image.mend()
    beside = run.cxr("run", run.config, "--runs", run.runs, "--stage", "real")
    assert beside.returncode == 0, beside.stderr
    for image in held:
        image.release()
    run.finish()
    assert run.num_resumes == 0
    assert sum(attempt.num_duplicates for attempt in run.ledger().attempts) >= 2


def a_shard_that_always_fails(run: TinyRun) -> None:
    """The others are made; after three failures for one cause it is parked and named, until it is told to be tried."""
    image = run.folder / "images" / "00013.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    run.submit()
    run.wait()
    assert "failed: 00006" in run.status()
    assert run.stage.done() == {f"{i:05d}" for i in range(24)} - {"00006"}
    for _ in range(2):
        assert run.cxr("resume", run.root).returncode == 0
        run.wait()
    assert "parked: 00006" in run.status()
    assert "shards failed" in run.report()
    assert "truncated" in run.cxr("logs", run.root, "real", "00006").stdout
    image.write_bytes(whole)
    run.resume("--retry-parked")
    run.finish()


def a_full_disk(run: TinyRun, enough: str) -> None:
    """The tasks end at once and say why; with room again one resume finishes."""
    run.submit()
    run.wait()
    assert "disk full" in {attempt.cause for attempt in run.ledger().attempts}, run.logs()
    subprocess.run(["mount", "-o", f"remount,{enough}", run.runs], check=True)
    run.finish()
    assert run.num_resumes == 1
    assert "disk full" in run.report()


SMALL_DISKS = (("size=400k,nr_inodes=2000", "size=40m"), ("size=40m,nr_inodes=90", "nr_inodes=2000"))
"""Options of a tmpfs that is too small for the run, and of one that is not."""


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[tuple[Path | None, str]]:
    """A small file system for as long as the block lasts; None where this user may not mount one, and why."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        yield None if done.returncode else folder, f"this user may not mount a tmpfs: {done.stderr.strip()}"
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def preempt(run: TinyRun, task: str) -> None:
    """Let a job of the partition with priority take the whole node of a task."""
    node = run.node(task)
    high = run.cluster.sbatch("sleep 1", "--partition=high", f"--nodelist={node}", "--exclusive", *run.charged)
    run.cluster.wait(high)


def kill_stepd(cluster: Cluster, job: str) -> None:
    """Kill what watches over the processes of a job; these go on."""
    for process in cluster.strays():
        if program_of(process) == "slurmstepd" and f"[{job}." in Path(f"/proc/{process}/cmdline").read_text():
            os.kill(process, signal.SIGKILL)


Fault = Callable[[TinyRun], None]

FAULTS: tuple[Fault, ...] = (
    six_ends_of_a_task,
    a_time_limit_and_a_preemption_that_cancels,
    a_controller_that_is_away,
    commands_that_lie,
    a_stage_before_that_failed,
    damaged_files,
    two_launchers,
    a_shard_that_always_fails,
)
LONG_FAULTS: tuple[Fault, ...] = (a_shard_longer_than_the_time_limit, a_controller_that_is_away_for_longer)

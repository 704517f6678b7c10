"""`--auto-resume` on a real cluster: a run that finishes with no command typed, and one that cannot and says so."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_core.runs.resumes import AutoResume
from tests.slurm.cluster import Cluster, program_of
from tests.slurm.faults import preempt
from tests.slurm.tiny import TinyRun


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[TinyRun]:
    yield from _clean(TinyRun(cluster, tmp_path))


@pytest.fixture
def accounted_run(accounted_cluster: Cluster, tmp_path: Path) -> Iterator[TinyRun]:
    yield from _clean(TinyRun(accounted_cluster, tmp_path))


def _clean(run: TinyRun) -> Iterator[TinyRun]:
    yield run
    run.cluster.run("scancel", "--user=root", check=False)
    run.cluster.until("the queue is empty", lambda: not run.queue())


def resumes(run: TinyRun) -> AutoResume:
    found = AutoResume.read(run.root)
    assert found is not None
    return found


def inside(run: TinyRun, shard: str) -> set[str]:
    """Attempts that are in the middle of a shard."""
    return {each.id for each in run.ledger().attempts if each.shard == shard and each.outcome == "running"}


def log(run: TinyRun) -> str:
    return run.logs("_auto_resume")


def test_given_preemption_that_cancels_then_the_run_finishes_with_no_command_typed(
    accounted_run: TinyRun, tiny_digest: str
) -> None:
    run = accounted_run
    run.write_profile(partition="cancel")
    image = run.hold(12)
    task = f"{run.submit('--auto-resume', '3')}_3"
    run.until_awaited(image)
    preempt(run, task)
    image.mend()
    run.wait()
    assert run.stage.facts() is not None, log(run)
    assert next(run.stage.path.glob(f"submits/*/{task}-0.end")).read_text().startswith("TERM ")
    run.assert_whole(tiny_digest)
    assert run.num_resumes == 0
    assert (resumes(run).most, len(resumes(run).resumed), resumes(run).outcome) == (3, 1, "everything is done")
    assert "auto-resume: 1 of 3 times; everything is done" in run.status()
    hours = "starts of tasks took 0.0"
    run.cluster.until("the accounts are there", lambda: hours in run.status())
    report = run.report()
    assert "killed in shard 00012: preemption" in report
    assert hours in report
    assert [shard for pack in run.submits[-1].packs or () for shard in pack] == ["00012", "00013", "00014", "00015"]


def test_given_a_shard_in_which_the_payload_is_killed_again_and_again_then_it_is_parked_and_the_run_ends_itself(
    run: TinyRun,
) -> None:
    image = run.hold(9)
    run.submit("--auto-resume", "9")
    killed: set[str] = set()
    for _ in range(3):
        # One that was killed counts as running until its parent has asked how it ended.
        run.cluster.until("another attempt is in the shard", lambda: bool(inside(run, "00009") - killed))
        run.until_awaited(image)
        (attempt,) = [each for each in run.ledger().attempts if each.id in inside(run, "00009") - killed]
        killed.add(attempt.id)
        process = int(attempt.beat["pid"])
        os.kill(process, signal.SIGKILL)
        run.cluster.until("it is dead", lambda process=process: not program_of(process))
        image.forget()
    run.wait()
    assert len(run.stage.done()) == 23
    assert "real: shard 00009 is parked: three attempts were killed in it (signal 9)" in log(run)
    # Twice because of the kills, and once for what its task had still to do behind the shard.
    assert len(resumes(run).resumed) == 3
    assert resumes(run).outcome.startswith("nothing more can be done: real: parked, so it cannot be finished: 00009 (")
    assert "killed in shard 00009: signal 9" in run.report()
    status = run.status()
    assert "parked: 00009" in status
    assert "auto-resume: 3 of 9 times; nothing more can be done" in status


def test_given_a_payload_that_hangs_then_it_is_ended_requeued_once_and_the_cause_is_named(
    run: TinyRun, tiny_digest: str
) -> None:
    run.write_profile(more="silent_minutes: 0.1\n")
    image = run.hold(5)
    task = f"{run.submit()}_1"
    run.until_awaited(image)
    image.mend()
    run.wait()
    run.assert_whole(tiny_digest)
    first, second = run.attempts(task)
    assert (first.outcome, first.cause, second.outcome) == ("killed", "hung", "done")
    assert "nothing was heard of the payload for too long" in run.logs()
    assert "killed in shard 00005: hung" in run.report()


def test_given_a_run_that_is_cancelled_then_it_does_not_resume_itself(run: TinyRun) -> None:
    image = run.hold(5)
    run.submit("--auto-resume", "3")
    run.until_awaited(image)
    run.cxr("cancel", run.root)
    run.wait()
    assert (list(resumes(run).resumed), resumes(run).outcome) == ([], "")
    assert len(run.submits) == 2

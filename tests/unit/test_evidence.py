"""What batch shells and logs tell of the ends of tasks; the lines of logs are real ones of Slurm 22.05."""

import time
from pathlib import Path

import pytest

from cxr_core.runs.evidence import cause_in_log, note_failed_launch, shell_ends

STARTED = time.mktime((2026, 11, 25, 14, 41, 50, 0, 0, -1)) + 0.7

CANCELLED = """\
srun: got SIGCONT
slurmstepd-n0: error: *** JOB 11 ON n0 CANCELLED AT 2026-11-25T14:41:59{due} ***
srun: forcing job termination
slurmstepd-n0: error: *** STEP 11.0 ON n0 CANCELLED AT 2026-11-25T14:41:59{due} ***
"""


def write_log(stage: Path, text: str) -> None:
    folder = stage / "submits" / "0001"
    folder.mkdir(parents=True)
    (folder / "8_1.out").write_text(text)


@pytest.mark.parametrize(
    ("due", "words"),
    [
        ("", "cancelled"),
        (" DUE TO TIME LIMIT", "time limit"),
        (" DUE TO PREEMPTION", "preemption"),
        (" DUE TO JOB REQUEUE", "requeued from outside"),
        (" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS", "node failure, see slurmctld log for details"),
    ],
)
def test_given_a_line_of_slurmstepd_then_its_cause_is_told(due: str, words: str, tmp_path: Path) -> None:
    write_log(tmp_path, CANCELLED.format(due=due))
    assert cause_in_log(tmp_path, "8_1", STARTED) == words


def test_given_a_task_that_was_started_twice_then_each_start_has_its_own_words(tmp_path: Path) -> None:
    first = "requeue 8_1: a shard was not done in time\n" + CANCELLED.format(due=" DUE TO JOB REQUEUE")
    write_log(tmp_path, first + CANCELLED.format(due="").replace("14:41:59", "14:55:00"))
    second = STARTED + 60
    assert cause_in_log(tmp_path, "8_1", STARTED, second) == "requeued: a shard was not done in time"
    assert cause_in_log(tmp_path, "8_1", second) == "cancelled"
    assert cause_in_log(tmp_path, "8_1", STARTED + 3600) == ""


def test_given_no_log_or_that_of_another_element_then_nothing_is_told(tmp_path: Path) -> None:
    assert cause_in_log(tmp_path, "8_1", STARTED) == ""
    write_log(tmp_path, CANCELLED.format(due=""))
    assert cause_in_log(tmp_path, "8", STARTED) == ""
    assert cause_in_log(tmp_path, "8_11", STARTED) == ""


@pytest.mark.parametrize(
    ("text", "cause", "status", "step"),
    [
        ("oom 12", "out of memory", None, ""),
        ("137 4\n", "signal 9", 137, ""),
        ("2 4", "exit status 2", 2, ""),
        ("start 0 1 line 2 of `setup` (module load x)\n", "exit status 1", 1, "line 2 of `setup` (module load x)"),
        ("\0 no word of ours", "", None, ""),
        ("", "", None, ""),
    ],
)
def test_the_record_of_a_shell_tells_cause_status_and_step(
    text: str, cause: str, status: int | None, step: str, tmp_path: Path
) -> None:
    folder = tmp_path / "submits" / "0001"
    folder.mkdir(parents=True)
    (folder / "8_1-2.end").write_text(text)
    (folder / "8_1-x.end").write_text(text)
    ((job, end),) = shell_ends(tmp_path).items()
    assert job == ("8_1", 2)
    assert (end.cause, end.status, end.step, end.submit) == (cause, status, step, folder)


def test_given_a_task_that_could_not_be_launched_then_the_record_is_left_in_the_place_of_its_shell(
    tmp_path: Path,
) -> None:
    (tmp_path / "submits" / "0001").mkdir(parents=True)
    note_failed_launch(tmp_path / "submits" / "0001", "8_1", 3)
    assert shell_ends(tmp_path)["8_1", 3].cause == "its launch failed on a node"

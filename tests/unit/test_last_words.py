"""Why the scheduler ended a job, from real lines of logs of Slurm 22.05."""

import time
from pathlib import Path

import pytest

from cxr_core.runs.last_words import last_words

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
    assert last_words(tmp_path, "8_1", STARTED) == words


def test_given_two_lives_then_each_has_its_own_words(tmp_path: Path) -> None:
    first = "requeue 8_1: a shard was not done in time\n" + CANCELLED.format(due=" DUE TO JOB REQUEUE")
    write_log(tmp_path, first + CANCELLED.format(due="").replace("14:41:59", "14:55:00"))
    second = STARTED + 60
    assert last_words(tmp_path, "8_1", STARTED, second) == "requeued: a shard was not done in time"
    assert last_words(tmp_path, "8_1", second) == "cancelled"
    assert last_words(tmp_path, "8_1", STARTED + 3600) == ""


def test_given_no_log_or_that_of_another_element_then_nothing_is_told(tmp_path: Path) -> None:
    assert last_words(tmp_path, "8_1", STARTED) == ""
    write_log(tmp_path, CANCELLED.format(due=""))
    assert last_words(tmp_path, "8", STARTED) == ""
    assert last_words(tmp_path, "8_11", STARTED) == ""

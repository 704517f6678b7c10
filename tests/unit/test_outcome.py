"""The outcome of an attempt: the reducer by itself, and by the files that attempts, shells, logs and accounts leave."""

import time
from pathlib import Path

import pytest

from cxr_core.runs.accounting import Account, Accounting
from cxr_core.runs.causes import CAUSES, Cause
from cxr_core.runs.files import write_json
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.outcome import Evidence, outcome_of

START = time.time() - 3600


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_given_any_cause_then_who_says_it_himself_failed_unless_he_was_done_or_stopped(cause: Cause) -> None:
    said = cause.outcome if cause.outcome in ("done", "stopped") else "failed"
    assert outcome_of(Evidence("ended", cause.name)) == (said, cause.name)
    assert outcome_of(Evidence("silent", by_log=cause.name)) == (cause.outcome, cause.name)


@pytest.mark.parametrize(
    ("evidence", "outcome", "cause"),
    [
        (Evidence("ended", "ZeroDivisionError"), "failed", "ZeroDivisionError"),
        (Evidence("ended", "finished", by_shell="hung", by_accounts="node failure"), "done", "finished"),
        (Evidence("running"), "running", ""),
        (Evidence("running", by_accounts="node failure", came_back=True), "running", ""),
        (Evidence("silent"), "silent", ""),
        (Evidence("gone"), "killed", ""),
        (Evidence("silent", came_back=True), "lost", "node failure"),
        (Evidence("silent", by_shell="terminated", came_back=True), "killed", "terminated"),
        (Evidence("silent", by_shell="terminated", by_accounts="preemption"), "killed", "preemption"),
        (Evidence("silent", by_shell="time limit", by_log="requeued: too long"), "killed", "requeued: too long"),
        (Evidence("silent", by_shell="time limit"), "timed out", "time limit"),
        (Evidence("silent", by_shell="signal 9", by_accounts="out of memory"), "killed", "out of memory"),
        (Evidence("silent", by_shell="signal 9", by_accounts="node failure"), "killed", "signal 9"),
        (Evidence("gone", by_shell="exit status 1"), "failed", "exit status 1"),
        (Evidence("silent", by_log="node failure, see slurmctld log"), "lost", "node failure, see slurmctld log"),
        (Evidence("silent", by_log="job suspended"), "killed", "job suspended"),
    ],
)
def test_the_witness_who_knows_best_is_believed(evidence: Evidence, outcome: str, cause: str) -> None:
    assert outcome_of(evidence) == (outcome, cause)


def lost_attempt(stage: Path, job: str, restart: int = 0, *, age: float = 600, **values: object) -> None:
    """An attempt on another machine of which nothing is heard any more."""
    beat = {"time": time.time() - age, "started": START + 100 * restart, "host": "elsewhere", "pid": 1, "node": "n1"}
    name = f"{job}-{restart}-{len(list(stage.glob('attempts/*'))):06x}"
    (stage / "attempts" / name).mkdir(parents=True)
    facts = {"job": job, "restart": str(restart), "shard": "00003", "since": START + 100 * restart}
    write_json(stage / "attempts" / name / "heartbeat.json", beat | facts | values)


def shell_says(stage: Path, name: str, text: str) -> None:
    folder = stage / "submits" / "0001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def accounts_say(run: Path, *starts: Account) -> None:
    Accounting(time.time(), "", starts).write(run)


def outcomes(stage: Path) -> list[tuple[str, str]]:
    return [(attempt.outcome, attempt.cause) for attempt in read_attempts(stage)]


@pytest.mark.parametrize(
    ("word", "outcome", "cause"),
    [
        ("oom 12", "killed", "out of memory"),
        ("silent 3600", "killed", "hung"),
        ("137 4", "killed", "signal 9"),
        ("135 4", "killed", "signal 7"),
        ("1 4", "failed", "exit status 1"),
        ("timeout 3590", "timed out", "time limit"),
        ("TERM 7", "killed", "terminated"),
    ],
)
def test_given_only_a_record_of_the_shell_then_a_silent_attempt_ended_of_what_it_says(
    word: str, outcome: str, cause: str, tmp_path: Path
) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1")
    assert outcomes(stage) == [("silent", "")]
    shell_says(stage, "7_1-0.end", word)
    assert outcomes(stage) == [(outcome, cause)]


@pytest.mark.parametrize(
    ("shell", "log", "state", "outcome", "cause"),
    [
        ("TERM 7", "", "PREEMPTED", "killed", "preemption"),
        ("TERM 7", "DUE TO TIME LIMIT", "", "timed out", "time limit"),
        ("137 7", "", "OUT_OF_MEMORY", "killed", "out of memory"),
        ("silent 7", "", "REQUEUED", "killed", "hung"),
        ("", "", "NODE_FAIL", "lost", "node failure"),
        ("", "", "COMPLETED", "silent", ""),
    ],
)
def test_given_the_files_of_several_witnesses_then_one_of_them_is_believed(
    shell: str, log: str, state: str, outcome: str, cause: str, tmp_path: Path
) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1")
    if shell:
        shell_says(stage, "7_1-0.end", shell)
    if log:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(START + 60))
        shell_says(stage, "7_1.out", f"slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT {moment} {log} ***\n")
    if state:
        accounts_say(tmp_path, Account("7_1", state, START - 1, START + 500, "n1"))
    assert outcomes(stage) == [(outcome, cause)]


def test_given_accounts_that_lie_then_what_an_attempt_said_itself_stands(tmp_path: Path) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1", age=1)
    lost_attempt(stage, "7_2")
    folder = max((stage / "attempts").glob("7_2*"))
    write_json(folder / "ended.json", {"cause": "finished", "started": START, "seconds": 60, "job": "7_2"})
    accounts_say(tmp_path, *(Account(f"7_{i}", "NODE_FAIL", START - 1, START + 500) for i in (1, 2)))
    assert outcomes(stage) == [("running", ""), ("done", "finished")]


def test_a_task_that_came_back_without_a_word_of_its_shell_was_lost_with_its_node(tmp_path: Path) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1")
    lost_attempt(stage, "7_1", 1, age=1, node="n2")
    assert outcomes(stage) == [("lost", "node failure"), ("running", "")]

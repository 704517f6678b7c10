"""Tasks that ended before they had an attempt: which are named, and which keep a resume from sending more."""

import os
import time
from pathlib import Path

import pytest

from cxr_core.runs.facts import facts_of
from cxr_core.runs.follow_up import follow_up
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.logs import stage_log
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Part, Submit, new_folder
from cxr_core.runs.unstarted import in_words, release_tasks, unstarted
from tests.unit.test_outcome import lost_attempt


def submitted(stage: Path, job: str, *ends: str, does: Part = "shards", age: float = 600) -> Path:
    """A submit of two tasks, and what the shells of the first of them wrote."""
    folder = new_folder(stage)
    packs = [["00000", "00001"], ["00002"]] if does == "shards" else None
    Submit(f"id{job}", stage.name, (does,), 2, "site", "/", packs=packs, job_id=job).write(folder)
    for index, text in enumerate(ends):
        path = folder / f"{job}_{index}-0.end"
        path.write_text(text)
        os.utime(path, (time.time() - age,) * 2)
        path.with_name(f"{job}_{index}.out").write_text(f"first\n\nlast words of {index}\n")
    return folder


def lines(stage: Path) -> list[str]:
    return [in_words([task]) for task in unstarted(StageFolder(stage), read_attempts(stage))]


def num_refused(stage: Path) -> int:
    """Tasks for which a resume refuses to send others."""
    return len(follow_up([facts_of(StageFolder(stage))], time.time()).stages[stage.name].would_recur)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("start 3 127 starting Python", "exit status 127 in starting Python"),
        ("start 0 1 line 2 of `setup` (module load x)", "exit status 1 in line 2 of `setup` (module load x)"),
        ("start 9 132 starting Python", "signal 4 in starting Python"),
        ("255 3", "exit status 255"),
        ("2 3", "exit status 2"),
        ("oom 3", "out of memory"),
    ],
)
def test_given_the_record_of_a_shell_then_its_task_is_told_with_the_status_and_the_step(
    end: str, words: str, tmp_path: Path
) -> None:
    submitted(tmp_path, "12", end)
    assert lines(tmp_path) == [f"task 12_0 did not come to its first shard: {words}"]
    log = "\n".join(stage_log(tmp_path))
    assert words in log
    assert "last words of 0" in log
    assert words in "\n".join(stage_log(tmp_path, "00001"))
    assert not list(stage_log(tmp_path, "00002"))


@pytest.mark.parametrize("end", ["TERM 3", "timeout 3", "69 3", ""])
def test_given_an_end_that_is_not_its_own_doing_then_nothing_is_told_and_a_resume_goes_on(
    end: str, tmp_path: Path
) -> None:
    submitted(tmp_path, "12", end)
    assert lines(tmp_path) == []
    assert num_refused(tmp_path) == 0


def test_given_a_record_of_an_earlier_version_then_it_is_read_as_it_was_meant(tmp_path: Path) -> None:
    submitted(tmp_path, "12", "137 4\n")
    assert lines(tmp_path) == ["task 12_0 did not come to its first shard: signal 9"]


def test_given_a_submit_of_which_no_task_began_then_a_resume_refuses_until_it_is_released(tmp_path: Path) -> None:
    submitted(tmp_path, "12", "start 3 1 starting Python", "start 3 1 starting Python")
    assert num_refused(tmp_path) == 2
    release_tasks(StageFolder(tmp_path), ())
    assert num_refused(tmp_path) == 0
    assert len(lines(tmp_path)) == 2
    submitted(tmp_path, "13", "start 3 1 starting Python")
    assert num_refused(tmp_path) == 1


def test_given_another_task_that_worked_then_the_others_are_sent_again(tmp_path: Path) -> None:
    submitted(tmp_path, "12", "start 3 127 starting Python")
    lost_attempt(tmp_path, "12_1")
    assert len(lines(tmp_path)) == 1
    assert num_refused(tmp_path) == 0


def test_given_python_that_ended_before_a_shard_then_the_second_submit_with_that_end_is_refused(
    tmp_path: Path,
) -> None:
    submitted(tmp_path, "12", "1 3")
    assert num_refused(tmp_path) == 0
    submitted(tmp_path, "13", "1 3")
    assert num_refused(tmp_path) == 2


def test_given_that_the_work_was_done_since_then_nothing_is_told(tmp_path: Path) -> None:
    submitted(tmp_path, "11", "start 3 1 starting Python", does="freeze")
    submitted(tmp_path, "12", "start 3 1 starting Python")
    assert lines(tmp_path)[0] == "task 11_0 did not freeze the plan: exit status 1 in starting Python"
    (tmp_path / "receipts").mkdir()
    for shard in ("00000", "00001"):
        (tmp_path / "receipts" / f"{shard}.json").touch()
    assert len(lines(tmp_path)) == 1
    (tmp_path / "stage.json").write_text("{}")
    assert lines(tmp_path) == []


def test_given_a_log_and_nothing_else_then_logs_show_it(tmp_path: Path) -> None:
    folder = submitted(tmp_path, "12")
    (folder / "12_1.out").write_text("half a word")
    log = "\n".join(stage_log(tmp_path))
    assert "task 12_1 left no attempt and no word of how it ended" in log
    assert "half a word" in log

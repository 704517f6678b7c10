"""Log records: who logs under which name, what people see of it, and what a task or an attempt writes down."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.log import ROOMS, crash, fail, json_lines, room_log, show_log, shown_level
from cxr_core.runs.attempt import Attempt
from cxr_core.runs.logs import stage_log
from cxr_core.runs.progress import bar
from tests.hostile.test_shown import ESCAPES


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ROOMS]
    before = [(log.handlers[:], log.level, log.propagate) for log in loggers]
    yield
    for log, (handlers, level, propagate) in zip(loggers, before, strict=True):
        log.handlers[:], log.level, log.propagate = handlers, level, propagate


def written(stage: Path) -> list[dict[str, str]]:
    """The records of the one attempt of a stage."""
    (path,) = stage.glob("attempts/*/log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("cxr_core.runs.pack", "cxr_core.runs"),
        ("cxr_core.evaluation.memorisation.search", "cxr_core.evaluation"),
        ("cxr_core.seeds", "cxr_core"),
        ("slurm.checks.ask", "slurm"),
        ("jobs.task", "jobs"),
    ],
)
def test_a_module_logs_under_the_name_of_its_room(module: str, name: str) -> None:
    assert room_log(module).name == name
    assert name.split(".")[0] in ROOMS


def test_given_a_record_of_another_thread_while_the_block_ends_then_it_is_dropped_and_nobody_fails() -> None:
    log, lines = logging.getLogger(ROOMS[0]), list[str]()
    before = log.handlers[:]
    with json_lines(lines.append, dict):
        (handler,) = set(log.handlers) - set(before)
    handler.handle(logging.makeLogRecord({"name": log.name, "msg": "late"}))
    assert lines == []


def test_given_no_option_then_notes_stand_as_they_are_and_warnings_say_what_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_log()
    log = room_log("cxr_core.data.table")
    log.debug("a step")
    log.info("real: %d rows", 3)
    log.warning("odd")
    said = capsys.readouterr()
    assert said.err == "real: 3 rows\nwarning: odd\n"
    assert said.out == ""


def test_given_verbose_then_each_step_is_shown_with_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    show_log(logging.DEBUG)
    room_log("slurm.queue").debug("squeue: exit status 0")
    moment, *rest = capsys.readouterr().err.split(" ")
    assert len(moment.split(":")) == 3
    assert rest[:2] == ["DEBUG", "slurm:"]


def test_given_quiet_then_neither_notes_nor_progress_are_shown_but_warnings_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_core.runs.progress._LOG_EVERY", 0.0)
    show_log(logging.WARNING)
    room_log("cxr_core.data.table").info("a note")
    with bar("work", 2) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""
    room_log("cxr_core.data.table").warning("odd")
    assert capsys.readouterr().err == "warning: odd\n"
    show_log()
    with bar("work", 2) as progress:
        progress.advance()
    assert "work: 1/2" in capsys.readouterr().err


def test_given_show_log_again_then_a_line_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    show_log()
    show_log(logging.DEBUG)
    show_log()
    assert shown_level() == logging.INFO
    room_log("jobs").warning("once")
    assert capsys.readouterr().err.count("once") == 1


@pytest.mark.parametrize("text", [*ESCAPES.values(), "a\nERROR forged"], ids=[*ESCAPES, "begins a line"])
def test_given_text_that_steers_a_terminal_then_a_record_is_one_line_of_text(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    show_log()
    lines: list[str] = []
    with json_lines(lines.append, dict):
        room_log("cxr_core.data.table").warning("before %s after", text)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(char.isprintable() or char == "\n" for char in said)
    (line,) = lines
    assert line.count("\n") == 1
    assert json.loads(line)["message"].isprintable()


def test_given_no_handler_at_all_then_what_python_prints_is_escaped_too() -> None:
    code = "from cxr_core.log import room_log; room_log('cxr_core.data.table').warning('%s', '\\x1b[2J\\nforged')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "\\x1b[2J\\nforged\n"


def test_given_an_attempt_then_its_records_say_stage_shard_attempt_level_and_logger(tmp_path: Path) -> None:
    log = room_log("cxr_core.data.table")
    with Attempt(tmp_path / "real", "7-0-abc") as attempt:
        log.info("before")
        attempt.enter_shard("00003")
        log.warning("an odd file: %s", "a.png")
        attempt.leave_shard("00003", "useful", "shard ended")
    log.warning("after")
    before, odd = written(tmp_path / "real")
    assert (before["shard"], before["message"]) == ("", "before")
    assert {**odd, "time": ""} == {
        "time": "",
        "level": "WARNING",
        "logger": "cxr_core.data",
        "stage": "real",
        "shard": "00003",
        "attempt": "7-0-abc",
        "message": "an odd file: a.png",
    }
    assert odd["time"].endswith("+00:00")


def test_given_no_record_then_an_attempt_has_no_log(tmp_path: Path) -> None:
    with Attempt(tmp_path / "real", "7-0-abc"):
        pass
    assert not list(tmp_path.glob("real/attempts/*/log.jsonl"))


def test_given_one_within_another_then_the_inner_one_alone_gets_records() -> None:
    outer: list[str] = []
    inner: list[str] = []
    log = room_log("cxr_core.runs.pack")
    with json_lines(outer.append, dict, level=logging.INFO):
        with json_lines(inner.append, dict):
            log.debug("1")
            log.info("2")
        log.debug("3")
        log.info("4")
    log.info("5")
    assert [json.loads(line)["message"] for line in inner] == ["1", "2"]
    assert [json.loads(line)["message"] for line in outer] == ["4"]


def test_given_a_disk_that_is_full_then_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(line: str) -> None:
        raise OSError(28, "No space left on device")

    with json_lines(refuse, dict):
        room_log("cxr_core.runs.pack").warning("odd")
    assert "Traceback" not in capsys.readouterr().err


def test_given_what_ends_a_program_then_it_is_said_on_its_lines_and_recorded_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_log()
    lines: list[str] = []
    with json_lines(lines.append, dict):
        fail(room_log("jobs"), str(UserError("wrong", where="a.yaml", hint="set it right")))
        crash(room_log("jobs"), ValueError("a defect"))
    said = capsys.readouterr().err
    assert said == "cxr: a.yaml: wrong\n  -> set it right\n"
    failed, crashed = map(json.loads, lines)
    assert failed["level"] == "ERROR"
    assert "set it right" in failed["message"]
    assert crashed["message"] == "ValueError: a defect"
    assert "ValueError" in crashed["traceback"]


def test_records_stand_between_events_in_what_cxr_logs_shows_and_steps_only_if_asked_for(tmp_path: Path) -> None:
    log = room_log("cxr_core.data.table")
    with Attempt(tmp_path / "real", "7-0-abc") as attempt:
        attempt.enter_shard("00003")
        time.sleep(0.005)  # their times are in milliseconds
        log.debug("a step")
        log.warning("odd")
        time.sleep(0.005)
        attempt.leave_shard("00003", "useful", "shard ended")
        time.sleep(0.005)
        log.warning("of no shard")
        time.sleep(0.005)
    lines = list(stage_log(tmp_path / "real"))
    shown = [line.split(" ", 3)[3] for line in lines if line.startswith("  ")]
    assert [line.split()[0] for line in shown] == ["started", "shard", "WARNING", "shard", "WARNING", "ended"]
    assert shown[2] == "WARNING cxr_core.data: odd"
    assert not any("a step" in line for line in lines)
    assert any("a step" in line for line in stage_log(tmp_path / "real", level=logging.DEBUG))
    of_shard = "\n".join(stage_log(tmp_path / "real", "00003"))
    assert "odd" in of_shard
    assert "of no shard" not in of_shard


def test_given_lines_that_are_no_records_then_cxr_logs_shows_the_others(tmp_path: Path) -> None:
    with Attempt(tmp_path / "real", "7-0-abc") as attempt:
        room_log("cxr_core.data.table").warning("good")
    with (attempt.folder / "log.jsonl").open("ab") as file:
        file.write(b'[1]\nnull\n{"level": 3}\n\xff\xfe\n{"time": "x", "level": "ERROR", "message": "m"}\n{"tim')
    lines = list(stage_log(tmp_path / "real"))
    assert any("good" in line for line in lines)
    assert any("--:--:-- ERROR" in line for line in lines)

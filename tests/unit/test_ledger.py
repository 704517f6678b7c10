"""The ledger: what every attempt did with its time, also of those that were killed or are silent."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.report.write import render
from cxr_core.runs.attempt import Attempt, allocated_gpus
from cxr_core.runs.files import write_json
from cxr_core.runs.ledger import AttemptRecord, Ledger, read_attempts, read_ledger
from cxr_core.runs.pack import freeze, run_pack
from cxr_core.runs.run import Run
from tests.stages import fail, tiny_work

CONFIG = {"format": 1, "name": "run", "seed": 3, "stages": [{"name": "tiny", "kind": "preprocess", "inputs": {}}]}


def write_beat(stage: Path, name: str, *, age: float, host: str = "elsewhere", **values: object) -> Path:
    """The folder of an attempt on another machine that was heard `age` seconds ago."""
    folder = stage / "attempts" / name
    folder.mkdir(parents=True)
    beat = {"time": time.time() - age, "started": time.time() - age - 100, "host": host, "pid": 1, "gpus": 2}
    write_json(folder / "heartbeat.json", beat | values)
    return folder


def test_given_shards_that_are_made_fail_and_were_made_before_then_their_time_is_told_apart(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "tiny")
    plan = freeze(work)

    def be_overtaken() -> None:
        time.sleep(0.2)
        other, _ = tiny_work(tmp_path / "tiny")
        run_pack(other, plan, ["00002"])

    job.trouble = {
        "00000": lambda: time.sleep(0.3),
        "00001": lambda: (time.sleep(0.1), fail(UserError("no"))()),
        "00002": be_overtaken,
    }
    with pytest.raises(UserError, match="no"):
        run_pack(work, plan, ["00000", "00001", "00002"])
    first, second = read_attempts(tmp_path / "tiny")
    assert (first.outcome, first.cause, second.outcome) == ("failed", "shards failed", "done")
    # Each has at least its own sleeps, and in sum there is no more than the attempt took: a second is counted once.
    assert first.useful >= 0.3
    assert first.failed >= 0.1
    assert first.duplicated >= 0.2
    assert first.useful + first.failed + first.duplicated <= first.seconds + 0.01
    assert first.num_failed == 1


def test_given_a_process_killed_in_a_shard_then_it_is_killed_and_the_shard_and_its_time_are_lost(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cxr_core.runs.attempt import Attempt\n"
        "with Attempt(Path(sys.argv[1]), '81_4-0-abc') as attempt:\n"
        "    attempt.enter_shard('00007'); time.sleep(0.5); attempt.beat({}, force=True)\n"
        "    print('at work', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        (alive,) = read_attempts(tmp_path)
        assert (alive.outcome, alive.shard) == ("running", "00007")
        assert alive.under_way >= 0.5
        process.kill()
    (dead,) = read_attempts(tmp_path)
    assert (dead.outcome, dead.shard, dead.is_over) == ("killed", "00007", True)
    spent = Ledger([dead]).hours
    assert 0.5 / 3600 <= spent.failed <= spent.total
    assert spent.useful == spent.under_way == 0


def test_given_no_heartbeat_from_another_machine_then_silent_until_its_job_starts_again(tmp_path: Path) -> None:
    write_beat(tmp_path, "81_4-0-aaaaaa", age=600, job="81_4", restart="0", shard="00003", since=0)
    write_beat(tmp_path, "81_5-0-bbbbbb", age=10, job="81_5", restart="0")
    first, second = read_attempts(tmp_path)
    assert (first.outcome, first.is_over) == ("silent", False)
    assert (second.outcome, second.is_over) == ("running", False)
    write_beat(tmp_path, "81_4-1-cccccc", age=5, job="81_4", restart="1")
    assert [attempt.outcome for attempt in read_attempts(tmp_path)] == ["lost", "running", "running"]


def test_given_attempts_lost_before_their_first_heartbeat_then_they_are_listed(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "pid1-0-aaaaaa").mkdir(parents=True)
    folder = tmp_path / "attempts" / "pid2-0-bbbbbb"
    folder.mkdir()
    beat = {"time": "2026-01-01", "what": "started", "host": "elsewhere", "pid": 2, "started": 1.7e9}
    (folder / "events.jsonl").write_text(json.dumps(beat) + "\n")
    assert {attempt.id for attempt in read_attempts(tmp_path)} == {"pid1-0-aaaaaa", "pid2-0-bbbbbb"}


def test_given_gpus_then_hours_are_weighted_by_them_and_a_budget_is_kept() -> None:
    start = 1.7e9
    attempts = [
        AttemptRecord("a", "x", Path("x"), "done", start, start + 3600, useful=1800, failed=900, gpus=4),
        AttemptRecord("b", "y", Path("y"), "killed", start, start + 7200, shard="00000", since=start + 3600, gpus=1),
        AttemptRecord("b", "z", Path("z"), "done", start, start + 3600, useful=3600),
    ]
    ledger = Ledger(attempts)
    spent = ledger.gpu_hours
    assert (spent.useful, spent.failed, spent.idle, spent.total) == (2.0, 2.0, 2.0, 6.0)
    assert ledger.hours.total == 4.0
    assert ledger.of("b").gpu_hours.total == 2.0
    ledger.check_budget(None)
    ledger.check_budget(6.5)
    with pytest.raises(UserError, match=r"the budget of 6 GPU-hours is used up: 6\.00 GPU-hours were spent"):
        ledger.check_budget(6)


def test_gpus_are_those_that_the_scheduler_shows() -> None:
    assert allocated_gpus({"CUDA_VISIBLE_DEVICES": "0,1,GPU-8932f937"}) == 3
    assert allocated_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert allocated_gpus({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}) == 0
    assert allocated_gpus({"SLURM_JOB_ID": "81"}) == 0


def test_an_attempt_records_its_job_and_node_when_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"ARRAY_JOB_ID": "81", "ARRAY_TASK_ID": "4", "JOB_ID": "85", "RESTART_COUNT": "2"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with Attempt(tmp_path) as attempt:
        pass
    event = json.loads((attempt.folder / "events.jsonl").read_text().splitlines()[0])
    facts = {"job": "81_4", "job_id": "85", "restart": "2", "node": "n3", "gpus": 2, "visible": "2,3"}
    assert {name: event[name] for name in facts} == facts
    (record,) = read_attempts(tmp_path)
    assert (record.job, record.restart, record.node, record.gpus, record.outcome) == ("81_4", 2, "n3", 2, "done")


def test_the_report_tells_what_it_cost(tmp_path: Path) -> None:
    with Run.locked(tmp_path / "run", CONFIG | {"price_per_gpu_hour": 2.0}) as run:
        stage = run.stage("tiny").path
        write_json(
            stage_attempt(stage, "7_1-0-aaaaaa") / "ended.json",
            {"cause": "finished", "started": 1.7e9, "seconds": 3600, "gpus": 2, "host": "n1", "shards": 5}
            | {"seconds_in": {"useful": 1800.0, "duplicated": 360.0, "failed": 720.0}},
        )
        write_beat(stage, "7_2-0-bbbbbb", age=600, shard="00003", since=time.time() - 650, gpus=0)
    assert read_ledger(run).gpu_hours.total == 2.0
    page = render(run.root)
    section = page[page.index('id="cost"') : page.index('id="provenance"')]
    for text in ("2.000", "50.0 %", "10.0 %", "20.0 %", "4.00", "1 done and 1 silent", "silent in shard 00003"):
        assert text in section, text
    assert ">6.00<" in render(run.root, price=3.0)


def stage_attempt(stage: Path, name: str) -> Path:
    folder = stage / "attempts" / name
    folder.mkdir(parents=True)
    return folder

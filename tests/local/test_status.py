"""`cxr status` on real runs, on killed processes, and on a run of very many shards."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_core.runs.causes import cause_named
from cxr_core.runs.files import write_json
from cxr_core.runs.pack import freeze, run_pack
from cxr_core.runs.plan import Plan, slices
from cxr_core.runs.run import Run, StageFolder, dump_config
from cxr_core.runs.status import StageStatus, run_status, stage_status
from jobs.show import show_status
from tests.pipeline import copy_until, cxr, stage_folder, start_and_kill
from tests.stages import fail, tiny_work

NUM_MANY = 100_000

COUNT_OPENS = """\
import json, sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
from jobs.cli import app
try:
    app(["status", sys.argv[1]])
except SystemExit:
    pass
names = [path.rpartition("/")[2] for path in opened]
records = [name for name in names if name.endswith((".json", ".jsonl", ".yaml"))]
receipts = [name for name in names if name.removesuffix(".json").isdigit() and name.endswith(".json")]
print(json.dumps({"run": len(records), "receipts": len(receipts)}), file=sys.stderr)
"""


def parts(status: StageStatus) -> tuple[int, ...]:
    counts = (status.running, status.failed, status.lost, status.parked)
    return (status.done, status.pending, *map(len, counts))


def test_given_a_killed_run_then_its_shard_is_lost_and_done_and_pending_add_up(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy_until(undisturbed, tmp_path, "vae")
    start_and_kill(nano_config, tmp_path, "vae", after=2)
    (status,) = [s for s in run_status(Run.open(tmp_path / "nano")) if s.name == "vae"]
    done, pending, running, failed, lost, parked = parts(status)
    assert done >= 2
    assert (running, failed, parked) == (0, 0, 0)
    assert lost <= 1
    assert done + pending + lost == status.planned == 10
    assert status.state == "stopped"
    shown = cxr("status", tmp_path / "nano").stdout
    assert f"{done}/10" in shown
    if lost:
        assert f"vae: lost with a killed process: {next(iter(status.lost))}" in shown


def test_given_a_run_at_work_then_it_is_running_with_a_rate_and_a_time_left(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy_until(undisturbed, tmp_path, "diffusion")
    seen = []
    command = [sys.executable, "-m", "jobs.cli", "run", str(nano_config), "--runs", str(tmp_path)]
    with subprocess.Popen([*command, "--stage", "diffusion"], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            folder = stage_folder(tmp_path, "diffusion")
            if folder.plan_path.exists():
                seen.append(stage_status(folder, "train"))
            time.sleep(0.05)
    running = [status for status in seen if status.state == "running"]
    assert running
    assert all(sum(parts(status)) == 10 for status in seen)
    assert any(status.rate and status.eta for status in running)
    assert any("diffusion training" in status.doing or "diffusion " in status.doing for status in running)


def test_given_failed_and_parked_shards_then_they_are_counted_and_named(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "tiny")
    job.trouble = {"00001": fail(ValueError("x")), "00003": fail(KeyError("y"))}
    plan = freeze(work)
    for shards in (["00000", "00001", "00003"], ["00003"], ["00003"]):
        with pytest.raises(LookupError if len(shards) == 1 else ValueError):
            run_pack(work, plan, shards)
    status = stage_status(StageFolder(tmp_path / "tiny"), "preprocess")
    assert parts(status) == (1, 2, 0, 1, 0, 1)
    assert status.failed == {"00001"}
    assert status.parked == {"00003"}


def test_given_silent_and_slow_attempts_then_both_are_named(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run", 100, num_attempts=4)
    now = time.time()
    folder = run / "real" / "attempts"
    for name, beat in {"5_1-0-aaaaaa": now - 400, "5_2-0-bbbbbb": now}.items():
        (folder / name).mkdir()
        at_work = {"shard": name, "since": now - 500, "started": now - 600, "host": "n7", "pid": 1, "gpus": 1}
        write_json(folder / name / "heartbeat.json", {"time": beat, "shards": 3} | at_work)
    shown = cxr("status", run, "--price", "3").stdout
    assert "real: attempt 5_1-0-aaaaaa on n7 is silent for 6 min" in shown
    assert "real: attempt 5_2-0-bbbbbb on n7 is slow: 8 min" in shown
    assert "GPU-hours, " in shown
    assert " at 3 an hour: " in shown


def test_given_training_at_work_then_step_loss_speed_memory_and_time_left_are_shown(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run", 10, num_attempts=1)
    folder, now = run / "real" / "attempts" / "9-0-aaaaaa", time.time()
    folder.mkdir()
    at_work = {"shard": "00007", "since": now - 60, "started": now - 60, "host": "n7", "pid": 1, "gpus": 1, "shards": 0}
    said = {"doing": "d training", "done": 40, "total": 500, "step": 3540, "loss": 0.12345, "images_per_second": 118.4}
    write_json(folder / "heartbeat.json", at_work | said | {"gpu_gib": 61.25, "seconds_left": 7265.0, "time": now})
    (status,) = run_status(Run.open(run))
    figures = "step 3,540, loss 0.1235, 118 images/s, at most 61.2 GiB of the GPU"
    assert status.doing == f"d training 40/500, {figures} (attempt on n7)"
    assert status.eta == pytest.approx(7265, abs=5)
    assert "2 h 01 min" in cxr("status", run).stdout


def test_given_losses_on_held_out_patients_that_rise_then_the_alarm_is_shown_while_it_trains(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run", 10, num_attempts=1)
    train = {"name": "real", "kind": "train", "model": "diffusion", "inputs": {}}
    (run / "config.yaml").write_text(dump_config({"name": "run", "stages": [train]}))
    (run / "real" / "shards").mkdir()
    for i, loss in enumerate([0.30, 0.25, 0.30, 0.31, 0.32]):
        lines = [{"step": 10 * i + 9, "loss": 0.1}, {"step": 10 * (i + 1), "loss": 0.1, "validation_loss": loss}]
        (run / "real" / "shards" / f"0000{i}-abc.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        shown = cxr("status", run).stdout
        assert ("real: overfitting" in shown) == (i == 4)
    assert "which it had at step 20; now it is 28.0 % above" in shown.replace("\n", " ")


def test_given_watch_then_it_ends_when_all_stages_are_done(undisturbed: Path) -> None:
    done = cxr("status", undisturbed / "nano", "--watch", timeout=60)
    assert done.returncode == 0
    assert "12/12" in done.stdout


def many_shards(root: Path, num: int, *, num_attempts: int) -> Path:
    """A run of one stage: all shards but three have a receipt, made by attempts of equal packs."""
    (root / "real" / "receipts").mkdir(parents=True)
    (root / "config.yaml").write_text(
        dump_config({"name": "run", "stages": [{"name": "real", "kind": "preprocess", "inputs": {}}]})
    )
    shards = slices(num, 1)
    Plan("real", shards, "f" * 64).write(root / "real" / "plan.jsonl")
    for shard in shards[:-3]:
        (root / "real" / "receipts" / f"{shard.id}.json").touch()
    for i in range(num_attempts):
        folder = root / "real" / "attempts" / f"7_{i}-0-abcdef"
        folder.mkdir(parents=True)
        counts = {"shards": num // num_attempts, "failed": 0, "gpus": 1, "host": "n1", "started": 1.7e9 + i}
        write_json(folder / "heartbeat.json", counts | {"time": 1.7e9 + 1800, "pid": 1})
        spent = {"useful": 1700.0, "duplicated": 0.0, "failed": 0.0}
        write_json(folder / "ended.json", counts | {"cause": "finished", "seconds": 1800.0, "seconds_in": spent})
    return root


def test_given_a_hundred_thousand_shards_then_status_takes_under_a_second_and_opens_no_receipt(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run", NUM_MANY, num_attempts=1000)
    counted = subprocess.run([sys.executable, "-c", COUNT_OPENS, run], capture_output=True, text=True, check=True)
    assert f"{NUM_MANY - 3}/{NUM_MANY}" in counted.stdout
    opens = json.loads(counted.stderr)
    assert opens["receipts"] == 0
    assert opens["run"] < 1010, "one file of each attempt, and a few of the stage"

    seconds = []
    for _ in range(3):
        start = _cpu_of_children()
        assert cxr("status", run).returncode == 0
        seconds.append(_cpu_of_children() - start)
    assert min(seconds) < 1, seconds


def _cpu_of_children() -> float:
    """Seconds of the CPU, which other work on the machine does not stretch as it does those of the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("oom 5", "was killed: out of memory in shard 00008"),
        ("1 5", "failed: exit status 1 in shard 00008"),
        ("timeout 5", "was ended by the scheduler: time limit in shard 00008"),
    ],
)
def test_given_an_attempt_that_ended_in_a_shard_then_its_cause_and_what_follows_are_shown(
    end: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, now = many_shards(tmp_path / "run", 10, num_attempts=1), time.time()
    attempt = run / "real" / "attempts" / "5_1-0-aaaaaa"
    attempt.mkdir()
    at_work = {"shard": "00008", "since": now - 500, "started": now - 600, "host": "n7", "pid": 1, "job": "5_1"}
    write_json(attempt / "heartbeat.json", {"time": now - 400, **at_work})
    (run / "real" / "submits" / "0001").mkdir(parents=True)
    (run / "real" / "submits" / "0001" / "5_1-0.end").write_text(end)
    show_status(run_status(Run.open(run)))
    shown = capsys.readouterr().out
    assert f"real: attempt 5_1-0-aaaaaa on n7 {words}" in shown
    cause = words.split(": ")[1].removesuffix(" in shard 00008")
    assert f"real: {cause}: {cause_named(cause).next_step}" in shown

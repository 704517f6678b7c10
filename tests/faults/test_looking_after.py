"""`cxr logs` tells what happened to a shard, `cxr gc` lists what may go and removes it only when told to."""

import json
import shutil
from pathlib import Path

import pytest

from cxr_core.runs.pack import freeze, run_pack
from cxr_core.runs.run import dump_config
from tests.pipeline import copy_until, cxr, run_nano, stage_folder, start_and_kill
from tests.stages import fail, tiny_work


def tiny_config(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(
        dump_config({"name": "run", "stages": [{"name": "tiny", "kind": "preprocess", "inputs": {}}]})
    )


def test_given_a_failed_shard_then_its_log_has_events_traceback_and_the_schedulers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    tiny_config(root)
    work, job = tiny_work(root / "tiny")
    job.trouble = {"00002": fail(ZeroDivisionError("division by zero"))}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "81")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    with pytest.raises(ZeroDivisionError):
        run_pack(work, freeze(work), ["00001", "00002"])
    (root / "tiny" / "submits" / "0001").mkdir(parents=True)
    (root / "tiny" / "submits" / "0001" / "81_4.out").write_text("slurmstepd: error: from the node\n")
    (root / "tiny" / "submits" / "0001" / "81_40.out").write_text("of another task\n")

    told = cxr("logs", root, "tiny", "00002").stdout
    assert "tiny: attempt 81_4-0-" in told
    assert ", job 81_4, started 20" in told
    assert "UTC: failed: shards failed\n" in told
    assert " shard failed shard=00002 " in told
    assert "cause=ZeroDivisionError text=ZeroDivisionError: division by zero" in told
    assert "in raise_it\n        raise error\n    ZeroDivisionError: division by zero" in told
    assert "slurmstepd: error: from the node" in told
    assert "another task" not in told
    assert "shard=00001" not in told
    assert "shard=00001" in cxr("logs", root).stdout
    assert "no attempt has worked on shard 00004 yet" in cxr("logs", root, "tiny", "00004").stdout


def test_given_a_name_that_is_none_then_the_names_are_told(undisturbed: Path) -> None:
    stage = cxr("logs", undisturbed / "nano", "reel")
    assert stage.returncode == 2
    assert "no stage 'reel'\n  -> there are: real, vae," in stage.stderr
    shard = cxr("logs", undisturbed / "nano", "real", "7")
    assert shard.returncode == 2
    assert "stage 'real' has no shard '7'\n  -> its 12 shards are named 00000 to 00011" in shard.stderr


def test_given_a_killed_attempt_then_its_half_made_work_is_listed_and_goes_only_with_yes(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy_until(undisturbed, tmp_path, "vae")
    start_and_kill(nano_config, tmp_path, "vae", after=2, delay=0.1)
    works = list((tmp_path / "nano" / "vae" / "attempts").glob("*/work"))
    assert works
    listed = cxr("gc", tmp_path / "nano")
    assert "half-made by a dead attempt" in listed.stdout
    assert "nothing was removed; `cxr gc" in listed.stdout
    assert works[0].exists()
    assert "training state" not in listed.stdout, "the stage is not finished: its state is needed"

    assert "removed: " in cxr("gc", tmp_path / "nano", "--yes").stdout
    assert not works[0].exists()
    run_nano(nano_config, tmp_path, "--stage", "vae")
    there = stage_folder(undisturbed, "vae").facts()
    here = stage_folder(tmp_path, "vae").facts()
    assert here is not None
    assert there is not None
    assert here["digest"] == there["digest"]


def test_given_a_finished_run_then_states_and_quarantine_go_and_the_run_is_still_whole(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed / "nano", tmp_path / "nano")
    (tmp_path / "nano" / "real" / "shards" / "stray").write_text("x")
    cxr("verify", tmp_path / "nano", "--repair")
    run_nano(nano_config, tmp_path)
    listed = cxr("gc", tmp_path / "nano").stdout
    assert listed.count("training state that nothing continues") == 2
    assert listed.count(": quarantine, ") == 1
    states = list((tmp_path / "nano").glob("*/shards/*.state"))
    assert len(states) == 2

    assert cxr("gc", tmp_path / "nano", "--yes").returncode == 0
    assert list((tmp_path / "nano").glob("*/shards/*.state")) == []
    well = cxr("verify", tmp_path / "nano")
    assert well.returncode == 0, well.stdout
    assert "nothing that could go" in cxr("gc", tmp_path / "nano").stdout
    assert cxr("run", nano_config, "--runs", tmp_path).stdout.startswith("done: ")


def test_given_a_budget_that_is_used_up_then_no_more_work_starts_until_it_is_raised(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy_until(undisturbed, tmp_path, "vae")
    folder = tmp_path / "nano" / "vae" / "attempts" / "7-0-abcdef"
    folder.mkdir(parents=True)
    spent = {"cause": "disk full", "started": 1.7e9, "seconds": 3600.0, "gpus": 4, "host": "n1"}
    (folder / "ended.json").write_text(json.dumps(spent))
    command = ("run", nano_config, "--runs", tmp_path, "--stage", "vae")
    refused = cxr(*command, "budget_gpu_hours=4")
    assert refused.returncode == 2
    assert "the budget of 4 GPU-hours is used up: 4.00 GPU-hours were spent" in refused.stderr
    raised = cxr(*command, "budget_gpu_hours=5", "price_per_gpu_hour=2.5")
    assert raised.returncode == 0, raised.stderr
    status = cxr("status", tmp_path / "nano").stdout
    assert "4.00 GPU-hours, 10.00 at 2.5 an hour: 0.0 % useful, 0.0 % duplicated, 0.0 % failed, 100.0 % idle" in status

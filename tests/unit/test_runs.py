"""The run folder, plans, receipts, attempts and atomic files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_core.errors import UserError, explain_os_error
from cxr_core.runs.attempt import Attempt, is_alive, new_attempt_id
from cxr_core.runs.files import atomic_path, sha256_path, write_atomic
from cxr_core.runs.plan import Plan, Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.run import Run
from cxr_core.seeds import derive_seed, unit_hash

CONFIG = {"format": 1, "name": "first", "seed": 3, "stages": [{"name": "real", "kind": "preprocess"}]}


def test_given_a_failing_write_then_the_old_file_stands_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_given_equal_folders_then_equal_digests_and_other_content_differs(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(text)
    assert sha256_path(tmp_path / "a") == sha256_path(tmp_path / "b") != sha256_path(tmp_path / "c")


def test_given_a_plan_when_written_and_read_then_it_is_the_same(tmp_path: Path) -> None:
    plan = Plan("real", (*slices(2500, 1000), Shard("last", 0, 0, {"arm": "real"})), "f" * 64, files={"a": "b"})
    plan.write(tmp_path / "plan.jsonl")
    assert Plan.read(tmp_path / "plan.jsonl") == plan
    assert [shard.num_items for shard in plan.shards] == [1000, 1000, 500, 0]


def test_given_a_parked_shard_then_nothing_of_a_chain_goes_on_behind_it() -> None:
    chain = Plan("vae", slices(4, 1), "f", chain=True)
    assert [shard.id for shard in chain.to_do({"00000"}, {"00002"})] == ["00001"]
    independent = Plan("real", slices(4, 1), "f").to_do({"00000"}, {"00002"})
    assert [shard.id for shard in independent] == ["00001", "00003"]


def test_given_a_truncated_plan_then_the_error_names_the_file_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    Plan("real", slices(3000, 1000), "f").write(path)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"plan\.jsonl: format 1, 2 of 3 shards"):
        Plan.read(path)
    path.write_text("")
    with pytest.raises(UserError, match=r"plan\.jsonl: damaged"):
        Plan.read(path)


def test_given_a_truncated_receipt_then_the_error_names_it(tmp_path: Path) -> None:
    path = tmp_path / "00000.json"
    path.write_text(Receipt("00000", "d", (), "p", "a", 0).to_json()[:40])
    with pytest.raises(UserError, match=r"00000\.json: damaged: "):
        Receipt.read(path)


def test_given_another_config_under_an_old_name_then_the_difference_is_shown(tmp_path: Path) -> None:
    root = tmp_path / "first"
    with Run.locked(root, CONFIG) as run:
        (root / "real").mkdir()
        Plan("real", (), "f").write(run.stage("real").plan_path)
    with Run.locked(root, CONFIG):
        pass
    with pytest.raises(UserError, match=r"-seed: 3\n.*\+seed: 4"), Run.locked(root, CONFIG | {"seed": 4}):
        pass


def test_given_a_first_try_that_planned_nothing_then_a_corrected_config_takes_its_name(tmp_path: Path) -> None:
    with Run.locked(tmp_path / "first", CONFIG):
        pass
    with Run.locked(tmp_path / "first", CONFIG | {"seed": 4}) as run:
        assert run.config["seed"] == 4
    assert Run.open(tmp_path / "first").config["seed"] == 4


def test_given_a_folder_that_is_no_run_then_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        Run.open(tmp_path)
    (tmp_path / "config.yaml").write_text("stages: 5")
    with pytest.raises(UserError, match=r"config\.yaml: not the config of a run"):
        Run.open(tmp_path)


def test_given_a_run_in_use_then_a_second_launcher_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    root = tmp_path / "first"
    code = (
        "import json, sys, time; from pathlib import Path; from cxr_core.runs.run import Run\n"
        "with Run.locked(Path(sys.argv[1]), json.loads(sys.argv[2])):\n    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(root), json.dumps(CONFIG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"another cxr works in this run.*pid {holder.pid} on"),
            Run.locked(root, CONFIG),
        ):
            pass
        holder.kill()
        holder.wait()
        with Run.locked(root, CONFIG):
            pass


def test_given_a_read_only_place_then_creating_a_run_says_where_to_go() -> None:
    with (
        pytest.raises(UserError, match="choose a folder that you may write to"),
        Run.locked(Path("/proc/runs"), CONFIG),
    ):
        pass


def test_given_an_attempt_that_fails_then_its_folder_says_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Attempt(tmp_path, "7-0-abc") as attempt:
        attempt.work.mkdir()
        assert is_alive(tmp_path, "7-0-abc")
        _ = 1 / 0
    ended = json.loads((attempt.folder / "ended.json").read_text())
    assert ended["cause"] == "ZeroDivisionError"
    assert "division by zero" in (attempt.folder / "traceback.txt").read_text()
    assert not attempt.work.exists()
    assert not is_alive(tmp_path, "7-0-abc")
    assert not is_alive(tmp_path, "never")


def test_given_slurm_variables_then_the_attempt_is_named_after_job_task_and_restart() -> None:
    environ = {"SLURM_ARRAY_JOB_ID": "81", "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "85", "SLURM_RESTART_COUNT": "2"}
    assert new_attempt_id(environ).startswith("81_4-2-")
    assert new_attempt_id({}).startswith(f"pid{os.getpid()}-0-")


def test_seeds_are_functions_of_their_parts_alone_and_parts_do_not_run_together() -> None:
    assert derive_seed(1, "a") == derive_seed(1, "a") != derive_seed("1", "a")
    assert derive_seed("a", "bc") != derive_seed("ab", "c")
    assert 0 <= unit_hash("patient", 7) < 1


def test_a_full_disk_is_explained_and_a_defect_of_ours_is_not() -> None:
    text = explain_os_error(OSError(28, "No space left on device", "/data/x"))
    assert text is not None
    assert "/data/x: No space left on device" in text
    assert "run the same command again" in text
    assert explain_os_error(OSError(9, "Bad file descriptor")) is None


def test_a_name_that_is_too_long_is_named_and_no_other_is_blamed(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / ("ü" * 130 + ".png")).write_bytes(b"")
    text = str(explain_os_error(caught.value))
    assert "'üüü" in text
    assert "255 bytes, and this has 264" in text
    with pytest.raises(OSError) as caught:
        Path(f"{tmp_path}{'/folder' * 700}").stat()
    text = str(explain_os_error(caught.value))
    assert "shorter path" in text


def test_a_file_that_may_not_be_read_is_not_called_one_that_may_not_be_written() -> None:
    text = str(explain_os_error(PermissionError(13, "Permission denied", "/data/x.png")))
    assert "may not read or write" in text

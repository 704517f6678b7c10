"""`--cluster local`: the tasks of a submit as processes of this machine."""

import os
from pathlib import Path

from cxr_core.runs.files import write_json
from cxr_core.runs.submits import Submit, submit_folders
from slurm.local import at_once
from tests.pipeline import cxr, stage_folder


def test_given_packs_in_processes_then_the_digest_is_that_of_the_run_in_process(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("inherits: local\ntask_minutes: 0.1\n")
    words = ("submit", nano_config, "--cluster", profile, "--runs", tmp_path / "runs", "--stage", "real")
    done = cxr(*words)
    assert done.returncode == 0, done.stderr
    here, there = stage_folder(tmp_path / "runs", "real"), stage_folder(undisturbed, "real")
    facts = [folder.facts() for folder in (here, there)]
    assert [fact and fact["digest"] for fact in facts] == [facts[1] and facts[1]["digest"]] * 2
    shards, finalize = (Submit.read(folder) for folder in submit_folders(here.path))
    assert (shards.num_tasks, finalize.does) == (2, ("finalize",))
    assert "nothing to submit" in cxr(*words).stdout


def test_given_an_unfinished_input_then_one_stage_alone_is_refused(nano_config: Path, tmp_path: Path) -> None:
    done = cxr("submit", nano_config, "--cluster", "local", "--runs", tmp_path, "--stage", "vae")
    assert done.returncode == 2
    assert "stage 'vae' needs 'real', which is neither finished nor in the queue" in done.stderr


def test_given_a_run_that_was_never_submitted_then_resume_says_how(undisturbed: Path) -> None:
    done = cxr("resume", undisturbed / "nano")
    assert done.returncode == 2
    assert "nothing of this run was submitted\n  -> cxr submit CONFIG --cluster NAME" in done.stderr


def test_given_a_parked_shard_then_resume_leaves_it_out_until_told_to_try_it(first_stage: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = cxr("submit", first_stage, "--cluster", "local", "--runs", runs)
    assert done.returncode == 0, done.stderr
    here = stage_folder(runs, "real")
    made = here.facts() or {}
    (here.path / "stage.json").unlink()
    shard = sorted(here.done())[0]
    (here.path / "receipts" / f"{shard}.json").unlink()
    (here.path / "parked").mkdir()
    write_json(here.path / "parked" / f"{shard}.json", {"format": 1, "shard": shard, "cause": "ValueError"})
    cxr("resume", runs / "nano")
    assert shard not in here.done()
    cxr("resume", runs / "nano", "--retry-parked")
    assert shard in here.done()
    assert (here.facts() or {})["digest"] == made["digest"]


def test_plan_on_a_cluster_shows_table_and_scripts_and_writes_nothing(nano_config: Path, tmp_path: Path) -> None:
    done = cxr("plan", nano_config, "--cluster", "generic", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:8]}
    assert rows["synthetic"][1:4] == ["24", "1", "1"]
    assert "=== JOB2 vae: freeze + shards + finalize, 1 tasks, after JOB1" in done.stdout
    assert "#SBATCH --dependency=afterany:JOB1" in done.stdout
    assert not list(tmp_path.iterdir())


def test_given_a_task_that_dies_before_python_then_submit_status_and_logs_say_how_its_log_ends(
    first_stage: Path, tmp_path: Path
) -> None:
    profile, runs = tmp_path / "mine.yaml", tmp_path / "runs"
    words = ("submit", first_stage, "--cluster", profile, "--runs", runs)
    for setup, why, said in (
        ("ls /no-such-folder", "exit status 2 in line 1 of `setup` (ls /no-such-folder)", "No such file or directory"),
        ("export PYTHONHOME=/nowhere", "exit status 1 in starting Python", "No module named 'encodings'"),
    ):
        profile.write_text(f"inherits: local\nlogin_shell: false\nsetup: {setup}\n")
        done = cxr(*words)
        assert done.returncode == 2
        assert said in done.stderr
        for told in (cxr("status", runs / "nano").stdout, cxr("logs", runs / "nano").stdout):
            assert why in told
            assert said in told
    profile.write_text('inherits: local\nlogin_shell: false\nsetup: ["export TOOL=1"]\n')
    assert cxr(*words).returncode == 0


def test_no_more_tasks_run_at_once_than_the_cores_hold() -> None:
    cores = len(os.sched_getaffinity(0))
    assert at_once(8, 1) == min(8, cores)
    assert at_once(8, cores) == 1
    assert at_once(8, 4 * cores) == 1
    assert at_once(1, 1) == 1

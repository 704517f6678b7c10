"""The job that resumes a run: when it sends nothing more, and what it says then. No scheduler is asked for that."""

import time
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.files import write_json
from cxr_core.runs.resumes import AutoResume
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, new_folder
from jobs.auto_resume import resume_itself
from jobs.config import load_config, resolved
from tests.slurm.tiny import write_config


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was submitted and may resume itself twice, on a machine without Slurm, with a GPU-hour spent."""
    monkeypatch.setenv("PATH", "/nowhere")
    profile = tmp_path / "site.yaml"
    profile.write_text("inherits: base\nvisible_seconds: 0\n")
    config = load_config(str(write_config(tmp_path)), ["budget_gpu_hours=0.5"])
    with Run.locked(tmp_path / "tiny", resolved(config)) as made:
        stage = made.stage("real").path
        stage.mkdir()
        Submit("x", "real", ("shards",), 1, str(profile), "/", job_id="7").write(new_folder(stage))
        attempt = stage / "attempts" / "7_0-0-aaaaaa"
        attempt.mkdir(parents=True)
        end = {"cause": "stopped", "started": time.time() - 3600, "seconds": 3600, "gpus": 1, "job": "7_0"}
        write_json(attempt / "ended.json", end)
        AutoResume(2).write(made.root)
    return made


def again(run: Run) -> str:
    return resume_itself(run.root, str(run.root.parent / "site.yaml"))


def outcome(run: Run) -> str:
    resumes = AutoResume.read(run.root)
    assert resumes is not None
    return resumes.outcome


def test_given_a_budget_that_is_used_up_then_it_ends_and_says_so(run: Run) -> None:
    with pytest.raises(UserError, match=r"the budget of 0\.5 GPU-hours is used up"):
        again(run)
    assert outcome(run).startswith("the budget of 0.5 GPU-hours is used up: 1.00 GPU-hours were spent (`cxr resume ")
    assert again(run) == "it is not wanted any more"


def test_given_as_many_resumes_as_it_may_then_it_ends_and_says_so(run: Run) -> None:
    AutoResume(2, resumed=("2026-01-01", "2026-01-02")).write(run.root)
    assert again(run) == "it resumed 2 times, as often as it may, and is not done"
    assert outcome(run) == "it resumed 2 times, as often as it may, and is not done"


def test_given_that_everything_is_done_then_it_sends_nothing(run: Run) -> None:
    write_json(run.stage("real").path / "stage.json", {"format": 1})
    assert again(run) == "everything is done"
    assert outcome(run) == "everything is done"


def test_given_one_stage_that_was_sent_alone_then_the_others_need_not_be_done(run: Run) -> None:
    AutoResume(2, "vae").write(run.root)
    (run.root / "vae").mkdir()
    write_json(run.root / "vae" / "stage.json", {"format": 1})
    assert again(run) == "everything is done"


def test_given_a_damaged_count_of_resumes_then_the_file_is_named(run: Run) -> None:
    (run.root / "_auto_resume" / "resumes.json").write_text("{")
    with pytest.raises(UserError, match=r"resumes\.json: damaged: .*\n.*--auto-resume N"):
        AutoResume.read(run.root)


def test_given_a_run_of_an_older_version_then_its_file_is_read_and_the_next_write_replaces_it(run: Run) -> None:
    folder = run.root / "_auto_resume"
    (folder / "resumes.json").unlink()
    write_json(folder / "lives.json", {"most": 3, "stage": None, "resumed": ["2026-01-01"], "outcome": "", "format": 1})
    assert AutoResume.read(run.root) == AutoResume(3, resumed=("2026-01-01",))
    write_json(run.stage("real").path / "stage.json", {"format": 1})
    assert again(run) == "everything is done"
    assert outcome(run) == "everything is done"
    assert [path.name for path in folder.glob("*.json")] == ["resumes.json"]

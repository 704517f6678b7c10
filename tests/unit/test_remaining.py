"""What remains of a run: stages of which something can be done, and the job that resumes it."""

from pathlib import Path

from cxr_core.runs.run import Run
from jobs.auto_resume import RESUMER
from jobs.remaining import possible
from slurm.packs import Job, StageWork
from slurm.profile import ClusterProfile
from slurm.submit import Launch, record, script_text


def test_given_parked_shards_then_what_waits_for_them_is_left_out_and_named() -> None:
    real = StageWork("real", "preprocess", 2, 10, 10, todo=[], parked=["00003"])
    half = StageWork("half", "preprocess", 2, 10, 10, todo=["00004"], parked=["00003"])
    vae = StageWork("vae", "train", 2, 10, 10, upstream=["real"])
    other = StageWork("other", "train", 2, 10, 10)
    kept, lines = possible([real, half, vae, other])
    assert [work.name for work in kept] == ["half", "other"]
    assert lines[0] == "real: parked, so it cannot be finished: 00003 (--retry-parked tries them again)"
    assert lines[-1] == "vae: left out, since it needs real"


def test_a_job_of_a_run_that_resumes_itself_calls_slurm_and_so_is_no_step(tmp_path: Path) -> None:
    run, profile = Run(tmp_path, {"name": "run"}), ClusterProfile(name="site")
    launch = Launch(run, profile, "site", tmp_path, ["in-image"], None, resumer=RESUMER)
    job = Job(StageWork("_auto_resume", "control", 1, 0, 0), ("resume",), after=("7",))
    text = script_text(
        launch, job, tmp_path / "_auto_resume" / "submits" / "0001", record(launch, job, waits_for=["7"])
    )
    assert "srun" not in text
    assert "in-image" not in text
    assert "-m jobs.auto_resume" in text
    assert "#SBATCH --dependency=afterany:7" in text

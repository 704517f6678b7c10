"""`--canary` of a training: ten steps are tried, and the run knows nothing of them afterwards."""

import re
from pathlib import Path

from cxr_core.runs.files import read_json
from tests.pipeline import cxr

TRAINING = """\
name: training
stages:
  - {{name: vae, kind: train, threads: 1, model: vae, preset: nano, inputs: {{dataset: {dataset}}}, steps: 24,
     batch_size: 4, checkpoint_every: 24, learning_rate: 1.0e-3, validation_images: 4}}
"""


def test_given_a_training_that_can_begin_then_ten_steps_are_timed_and_leave_nothing_but_their_time(
    undisturbed: Path, tmp_path: Path
) -> None:
    config = tmp_path / "training.yaml"
    config.write_text(TRAINING.format(dataset=undisturbed / "nano" / "real"))
    words = ("submit", config, "--cluster", "local", "--runs", tmp_path / "runs")
    done = cxr(*words, "--canary")
    assert done.returncode == 0, done.stderr
    assert re.search(r"canary of vae: a step took [\d.]+ s on \S+; guessed were 0\.50 s", done.stdout)
    stage = tmp_path / "runs" / "training" / "vae"
    told = read_json(stage / "submits" / "0001" / "rehearsal.json")
    assert told["steps"] == 10
    assert {path.name for path in (stage / "submits" / "0001").iterdir()} == {
        "submit.json",
        "rehearsal.json",
        "local_0.out",
    }
    cxr("submit", config, "--cluster", "local", "--runs", tmp_path / "plain")
    digests = [read_json(tmp_path / runs / "training" / "vae" / "stage.json")["digest"] for runs in ("runs", "plain")]
    assert digests[0] == digests[1]


def test_given_no_scheduler_then_a_run_cannot_resume_itself(nano_config: Path, tmp_path: Path) -> None:
    done = cxr("submit", nano_config, "--cluster", "local", "--runs", tmp_path, "--auto-resume", "3")
    assert done.returncode == 2
    assert "profile 'local' has no scheduler that could resume the run" in done.stderr

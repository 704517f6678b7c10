"""Five checkpoints at two scales of guidance on the test cluster, ending in one table; `make proof TARGET=sweep`."""

import time
from pathlib import Path

import pytest

from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.report.diversity import share_cell
from cxr_core.report.sweep_words import alarm_words, choice_words
from cxr_core.report.write import write_report
from cxr_core.runs.run import Run
from tests.pipeline import cxr
from tests.slurm.cluster import Cluster
from tests.vision import small_vit

pytestmark = pytest.mark.proof

CONFIG = """\
name: sweep
seed: 5
stages:
  - name: real
    kind: preprocess
    threads: 1
    data: {{kind: phantom, num_images: 900, seed: 3, size: 64}}
    size: 32
    validation_share: 0.3
    shard_size: 300
  - name: vae
    kind: train
    threads: 1
    model: vae
    preset: nano
    inputs: {{dataset: real}}
    steps: 200
    batch_size: 8
    checkpoint_every: 100
    learning_rate: 2.0e-3
    validation_images: 8
  - name: latents
    kind: latents
    threads: 1
    inputs: {{dataset: real, base: vae}}
    batch_size: 16
    shard_size: 512
  - name: diffusion
    kind: train
    threads: 1
    model: diffusion
    inputs: {{latents: latents, base: vae}}
    steps: 500
    batch_size: 8
    checkpoint_every: 100
    keep: {{last: 1, every: 100}}
    learning_rate: 1.0e-3
    validation_images: 16
    preview: {{num_prompts: 2, denoising_steps: 2}}
  - name: candidates
    kind: generate
    threads: 1
    inputs: {{model: diffusion, like: real}}
    request: {{balanced: [No Finding, Infiltration], num_images: 128}}
    sweep: {{checkpoints: all, guidance: [1.0, 4.0]}}
    denoising_steps: 5
    batch_size: 32
    shard_size: 64
  - name: choice
    kind: evaluate
    threads: 1
    inputs: {{real: real, synthetic: candidates}}
    extraction: {{num_train: 300, batch_size: 32, shard_size: 128}}
    sweep: {{features: "{features}", test: true, diversity: {{neighbours: 3}}}}
"""

PROFILE = """\
inherits: base
mem: 1900M
array_parallelism: 4
task_minutes: 2
visible_seconds: 3
"""


def test_five_checkpoints_at_two_guidances_on_a_cluster_end_in_one_table(cluster: Cluster, tmp_path: Path) -> None:
    features = tmp_path / "vit"
    small_vit(features)
    config, profile = tmp_path / "sweep.yaml", tmp_path / "site.yaml"
    config.write_text(CONFIG.format(features=features))
    profile.write_text(PROFILE)
    start = time.monotonic()
    done = cxr("submit", config, "--runs", tmp_path / "runs", "--cluster", profile, env=cluster.env)
    assert done.returncode == 0, done.stderr
    cluster.until("the queue is empty", lambda: not cluster.run("squeue", "--noheader").stdout, 3600)
    run = Run.open(tmp_path / "runs" / "sweep")
    unfinished = [stage["name"] for stage in run.config["stages"] if run.stage(stage["name"]).facts() is None]
    assert not unfinished, "\n".join(path.read_text()[-2000:] for path in run.root.glob("*/submits/*/*.out"))
    sweep = Metrics.model_validate_json((run.stage("choice").path / FILE).read_text()).sweep
    assert sweep is not None
    print(f"\n{time.monotonic() - start:.0f} s on the test cluster, beside whatever else ran")
    for result in sweep.points:
        kid, spread = result.fidelity.headline.kid, result.diversity.headline
        alike = result.diversity.synthetic.ms_ssim
        assert kid is not None
        assert alike is not None
        assert spread.recall is not None
        assert spread.coverage is not None
        print(
            f"{result.point.words}: KID {kid.value:.3g} ({kid.low:.3g} to {kid.high:.3g}), "
            f"recall {share_cell(spread.recall)}, coverage {share_cell(spread.coverage)}, MS-SSIM {alike.value:.3f}"
        )
    print(choice_words(sweep), *(alarm_words(each, sweep) for each in sweep.alarms), sep="\n")
    print(f"features computed: of {sweep.num_real_computed} of {sweep.num_real_seen} real images")
    points = [(each.point.step, each.point.guidance) for each in sweep.points]
    assert points == [(step, guidance) for step in (100, 200, 300, 400, 500) for guidance in (1.0, 4.0)]
    assert sweep.num_real_computed == sweep.num_real_seen
    num_tasks = len(list((run.stage("choice").path / "submits").glob("*/*_[0-9]*.out")))
    print(f"tasks of the sweep, with those that freeze and finalize it: {num_tasks}")
    page = write_report(run.root).read_text()
    assert "KID over training steps" in page
    assert "Official test patients were looked at for one point, once." in page

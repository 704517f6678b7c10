"""A sweep that looks for copies on the test cluster, in an array of searches; `make proof TARGET=searches`, minutes."""

import time
from collections import Counter
from pathlib import Path

import pytest

from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.sweep.results import SweepResult
from cxr_core.report.sweep_words import alarm_rule, alarm_words, choice_words, copied_words
from cxr_core.runs.run import Run
from tests.copied import radiographs, write_checkpoints
from tests.pipeline import cxr
from tests.slurm.cluster import Cluster
from tests.vision import small_vit

pytestmark = pytest.mark.proof

CONFIG = """\
name: copying
seed: 8
stages:
  - name: choice
    kind: evaluate
    threads: 1
    inputs: {{real: "{real}", synthetic: "{synthetic}"}}
    extraction: {{batch_size: 32, shard_size: 128}}
    memorisation: {{percentile: 99.5, num_train: 200, num_planted: 50, shard_size: 128, search_shard_size: 128}}
    sweep: {{features: "{features}", num_resamples: 20}}
"""
"""Real radiographs and two checkpoints: one draws other patients, a later one copies of training images."""

PROFILE = """\
inherits: base
mem: 1900M
array_parallelism: 4
task_minutes: 1
visible_seconds: 3
stages: {evaluate: {seconds_per_item: 0.05}}
"""


def test_searches_that_run_beside_the_shards_that_they_need_find_what_one_process_finds(
    cluster: Cluster, nih_data: Path, tmp_path: Path
) -> None:
    inputs = write_checkpoints(tmp_path, radiographs(nih_data), num_real=1000, num_copies=50)
    config, profile = tmp_path / "copying.yaml", tmp_path / "site.yaml"
    config.write_text(CONFIG.format(**inputs, features=small_vit(tmp_path / "vit")))
    profile.write_text(PROFILE)
    done = cxr("run", config, "--runs", tmp_path / "here", timeout=1800)
    assert done.returncode == 0, done.stderr
    start = time.monotonic()
    done = cxr("submit", config, "--runs", tmp_path / "there", "--cluster", profile, env=cluster.env)
    assert done.returncode == 0, done.stderr
    cluster.until("the queue is empty", lambda: not cluster.run("squeue", "--noheader").stdout, 1800)
    print(f"\n{time.monotonic() - start:.0f} s on the test cluster, beside whatever else ran")
    here, there = (Run.open(tmp_path / name / "copying").stage("choice") for name in ("here", "there"))
    assert there.facts() is not None, "\n".join(path.read_text()[-2000:] for path in there.path.glob("submits/*/*.out"))
    digests = [{each.shard: each.digest for each in stage.receipts()} for stage in (here, there)]
    print(f"shards: {dict(Counter(name.split('-')[0] for name in digests[0]))}")
    print(f"tasks: {len(list((there.path / 'submits').glob('*/*_[0-9]*.out')))}")
    assert digests[0] == digests[1]
    alone, array = (_sweep(stage.path) for stage in (here, there))
    assert alone.points == array.points
    print(f"real images whose features were computed: {array.num_real_computed} of {array.num_real_seen}")
    for result in array.points:
        assert result.copies is not None
        print(
            f"{result.point.words}: {copied_words(result.copies, array)}",
            f"Planted copies found: {result.copies.recall:.2f} at least.",
        )
    print(alarm_rule(array), choice_words(array), *(alarm_words(each, array) for each in array.alarms), sep="\n")
    assert [result.copies.alarm for result in array.points if result.copies] == [False, True]


def _sweep(stage: Path) -> SweepResult:
    found = Metrics.model_validate_json((stage / FILE).read_text()).sweep
    assert found is not None
    return found

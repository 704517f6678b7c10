"""What synthetic images add to real radiographs; `make proof TARGET=utility`, half an hour of two cores.

Effusion: real, half replaced, the same half alone. Cardiomegaly and Infiltration: real alone. The generator learns from
exactly the half that stays. CXR_PROOF_RUNS names a folder for the runs; images that are there are taken as they are.
"""

import os
from pathlib import Path

import pytest

from cxr_core.evaluation.benefit.results import BenefitResult
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.runs.files import read_json
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

IMAGES = """
name: utility_images
seed: 8
stages:
  - name: real
    kind: preprocess
    data:
      kind: chestxray14
      metadata: "{nih}/metadata"
      images: ["{nih}/images_128"]
      missing: subset
      expect_size: null
    size: 64
  - name: latents
    kind: latents
    inputs: {{dataset: real, base: tiny_base}}
    train_images: 1500
  - name: diffusion
    kind: train
    model: diffusion
    inputs: {{latents: latents, base: tiny_base}}
    train_text_encoder: false
    steps: 900
    batch_size: 16
    checkpoint_every: 450
    learning_rate: 2.0e-3
    warmup_steps: 30
    ema_decay: 0.99
    preview: {{num_prompts: 2}}
  - name: synthetic
    kind: generate
    inputs: {{model: diffusion, like: real}}
    request: {{like: train, num_images: 1600}}
    denoising_steps: 12
    guidance: 2.0
    batch_size: 32
    shard_size: 160
"""
"""Real images of 64 px, and synthetic ones like them of a tiny model that learnt from 1,500."""

STUDY = """
name: utility
seed: 8
stages:
  - name: study
    kind: evaluate
    inputs: {{real: {images}/real, synthetic: {images}/synthetic}}
    grids: {{findings: [No Finding, Effusion]}}
    benefit:
      - findings: [Effusion]
        num_real: 3000
        synthetic: false
        replace_percent: [50]
        learning_curve_percent: [25, 50]
        primary: {{arm: replace-50, against: real-50, finding: Effusion}}
        generator_trained_on: same_n
        learner: {{steps: 600}}
      - findings: [Cardiomegaly, Infiltration]
        num_real: 3000
        synthetic: false
        replace_percent: []
        learner: {{steps: 600}}
"""


@pytest.fixture(scope="module")
def study(nih_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))
    images = runs / "utility_images"
    if not (images / "synthetic" / "stage.json").exists():
        _run(runs, IMAGES.format(nih=nih_data))
    _run(runs, STUDY.format(images=images))
    seconds = {path.parent.name: read_json(path)["seconds"] for path in sorted(runs.glob("*/*/stage.json"))}
    print(f"\nseconds: {seconds}")
    return runs / "utility" / "study"


def _run(runs: Path, text: str) -> None:
    config = runs / "config.yaml"
    config.write_text(text)
    done = cxr("run", config, "--runs", runs, timeout=7200)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def results(study: Path) -> dict[str, BenefitResult]:
    found = Metrics.model_validate_json((study / FILE).read_text()).benefit
    return {name: one for one in found for name in one.findings}


@pytest.mark.parametrize("finding", ["Effusion", "Cardiomegaly", "Infiltration"])
def test_given_real_radiographs_then_each_finding_is_told_on_test_patients_with_an_interval(
    results: dict[str, BenefitResult], finding: str
) -> None:
    result = results[finding]
    (recorded,) = result.by_labels
    for arm in result.arms:
        print(f"\n{finding}, {arm.model_dump_json(exclude={'final_loss'})}")
    print(f"{finding}, test images: {next(one for one in recorded.findings if one.finding == finding)}")
    for one in (each for each in recorded.aurocs if each.finding == finding):
        seeds = ", ".join(f"{seed:.3f}" for seed in one.seeds)
        print(f"{finding}, {one.arm}: AUROC {_told(one.auroc)}; seeds {seeds}")
        assert len(one.seeds) == 5
        assert one.auroc.low <= one.auroc.value <= one.auroc.high
    for group in (each for each in recorded.groups if each.finding == finding):
        numbers = ", ".join(f"{arm} {_told(auroc)}" for arm, auroc in group.aurocs.items())
        print(
            f"{finding}, {group.by} {group.group}: {group.num_with} with, {group.num_without} without; "
            f"{group.not_computed or numbers}"
        )


def test_given_half_of_the_images_replaced_then_what_the_synthetic_half_added_is_told(
    results: dict[str, BenefitResult],
) -> None:
    recorded = results["Effusion"].by_labels[0]
    assert {arm.arm: arm.not_run for arm in results["Effusion"].arms} == dict.fromkeys(
        ("real", "replace-50", "real-25", "real-50")
    )
    assert recorded.primary is not None
    for one in (recorded.primary, *recorded.comparisons):
        print(f"\n{one.arm} - {one.against}, {one.finding}: {_told(one.difference)}, p {one.p:.3f}, Holm {one.p_holm}")
    for rate in recorded.exchange:
        print(f"exchange rate, {rate.model_dump_json()}")
        assert (rate.rate is None) != (rate.not_computed is None)


def _told(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"

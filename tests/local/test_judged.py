"""A judge trained by the train stage tries synthetic images in the evaluate stage, all of them planted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.evaluate
import jobs.train
from cxr_core.data.findings import NIH
from cxr_core.evaluation.metrics import FILE, JudgedFinding, Metrics
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.report.before_gate import before_gate
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from cxr_core.training.judge_settings import ClassifierTrain
from tests.planted import planted_rows, write_planted

SIZE = 32
EFFUSION = NIH.bit("Effusion")


def work(folder: Path, job: Any, settings: Any, inputs: dict[str, Path]) -> Work:
    folder.mkdir()
    return Work(StageFolder(folder), job, Context(settings, inputs, 7, folder), {})


def finish(stage: Work) -> Path:
    plan = freeze(stage)
    run_pack(stage, plan, [shard.id for shard in plan.shards])
    finalize(stage, plan)
    return stage.folder.path


def real_rows(*, shuffled: bool = False) -> list[dict]:
    """200 train, 40 val and 200 test images with a square for Effusion; `shuffled`: labels that are coins."""
    rows = [
        row for split, num in (("train", 200), ("val", 40), ("test", 200)) for row in planted_rows(num, split=split)
    ]
    coins = np.random.default_rng(3).permutation(len(rows)) % 2
    if shuffled:
        for row, coin in zip(rows, coins, strict=True):
            row |= {"drawn": row["labels"], "labels": EFFUSION * int(coin)}
    return rows


def synthetic_rows(*, obedient: bool) -> list[dict]:
    """400 images, half of them asked for with Effusion: these show it or, if not `obedient`, any half does."""
    rows = [dict(row, patient_id="", seed=1, generation="{}") for row in planted_rows(400, split="synthetic")]
    if not obedient:
        rows = [row | {"drawn": row["labels"], "labels": EFFUSION * (i // 2 % 2)} for i, row in enumerate(rows)]
    return rows


def train_judge(folder: Path, dataset: Path) -> Path:
    settings = ClassifierTrain(
        name="judge",
        kind="train",
        model="classifier",
        inputs={"dataset": "d"},
        findings=("Effusion",),
        steps=200,
        checkpoint_every=200,
        batch_size=16,
        learning_rate=3e-3,
        warmup_steps=10,
        threads=1,
    )
    return finish(work(folder, jobs.train, settings, {"dataset": dataset}))


def judged(folder: Path, real: Path, synthetic: Path, judge: Path) -> Metrics:
    settings = EvaluateStage(
        name="study",
        kind="evaluate",
        inputs={"real": "r", "synthetic": "s", "judge": "j"},
        faithfulness={"num_resamples": 200, "num_permutations": 100},
        fidelity={"num_resamples": 20},
        threads=1,
    )
    inputs = {"real": real, "synthetic": synthetic, "judge": judge}
    return Metrics.model_validate_json((finish(work(folder, jobs.evaluate, settings, inputs)) / FILE).read_text())


def effusion(metrics: Metrics) -> JudgedFinding:
    assert metrics.faithfulness is not None
    (found,) = metrics.faithfulness.findings
    assert found.finding == "Effusion"
    return found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("planted") / "real", real_rows(), size=SIZE).folder


@pytest.fixture(scope="module")
def judge(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_judge(tmp_path_factory.mktemp("judge") / "judge", real)


def test_given_a_judge_that_passes_and_a_generator_that_obeys_then_the_finding_is_said_to_be_there(
    tmp_path: Path, real: Path, judge: Path
) -> None:
    synthetic = write_planted(tmp_path / "synthetic", synthetic_rows(obedient=True), size=SIZE, synthetic=True).folder
    metrics = judged(tmp_path / "study", real, synthetic, judge)
    found = effusion(metrics)
    assert [trial.refused for trial in found.trial] == [None, None, None]
    for contrast in found.synthetic:
        assert contrast.auroc is not None
        assert contrast.chance is not None
        assert contrast.auroc.low > 0.9
        assert contrast.chance.low < 0.5 < contrast.chance.high
    assert metrics.fidelity is not None
    assert metrics.fidelity.headline.fid is not None
    assert metrics.calibration is not None
    (calibrated,) = metrics.calibration.findings
    assert metrics.calibration.unweighted
    for side, num in ((calibrated.real, 100), (calibrated.synthetic, 200)):
        assert side is not None
        assert (side.num_with, side.num_without) == (num, num)
        assert side.brier.value < 0.1
    assert {one.group for one in metrics.calibration.groups if one.auroc} == {"F", "40-64", "AP", "PA"}


def test_given_a_generator_that_ignores_its_prompt_then_its_score_is_a_coins(
    tmp_path: Path, real: Path, judge: Path
) -> None:
    rows = synthetic_rows(obedient=False)
    synthetic = write_planted(tmp_path / "synthetic", rows, size=SIZE, synthetic=True).folder
    contrast = effusion(judged(tmp_path / "study", real, synthetic, judge)).synthetic[0]
    assert contrast.auroc is not None
    assert contrast.chance is not None
    assert contrast.auroc.low < 0.5 < contrast.auroc.high
    assert contrast.chance.low < contrast.auroc.value < contrast.chance.high


def test_given_a_gate_that_chose_well_then_the_judge_tells_first_draws_from_those_that_are_stored(
    tmp_path: Path, real: Path, judge: Path
) -> None:
    synthetic = write_planted(tmp_path / "synthetic", synthetic_rows(obedient=True), size=SIZE, synthetic=True).folder
    write_planted(synthetic / "first_draws", synthetic_rows(obedient=False), size=SIZE, synthetic=True)
    metrics = judged(tmp_path / "study", real, synthetic, judge)
    assert metrics.before_gate is not None
    (before,) = metrics.before_gate.findings
    assert before.synthetic[0].auroc is not None
    assert before.synthetic[0].auroc.low < 0.5 < before.synthetic[0].auroc.high
    (table,) = before_gate(metrics)
    (row,) = table.rows
    assert row[0] == "Effusion"
    assert row[1].startswith(f"{before.synthetic[0].auroc.value:.2f} (")
    assert row[2].startswith("1.00 (")
    assert "a sample of 400 images" in table.notes[0]


def test_given_a_judge_that_learnt_shuffled_labels_then_it_is_refused_and_no_number_is_given(tmp_path: Path) -> None:
    real = write_planted(tmp_path / "real", real_rows(shuffled=True), size=SIZE).folder
    synthetic = write_planted(tmp_path / "synthetic", synthetic_rows(obedient=True), size=SIZE, synthetic=True).folder
    metrics = judged(tmp_path / "study", real, synthetic, train_judge(tmp_path / "judge", real))
    found = effusion(metrics)
    assert all("is below 0.70" in str(trial.refused) for trial in found.trial)
    for contrast in found.synthetic:
        assert contrast.auroc is None
        assert "is below 0.70" in str(contrast.refused)
    assert metrics.calibration is not None
    assert metrics.calibration.findings[0].synthetic is None
    assert metrics.fidelity is not None
    assert "failed its trial" in str(metrics.fidelity.headline.not_computed)

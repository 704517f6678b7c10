"""A benefit experiment as the evaluate stage runs it, on Datasets with a planted answer."""

from pathlib import Path
from typing import Any

import pytest

import jobs.evaluate
from cxr_core.data.findings import NIH
from cxr_core.evaluation.benefit.results import ArmAuroc, BenefitResult
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from tests.planted import planted_rows, write_planted

LEARNER = {"steps": 80, "batch_size": 16, "warmup_steps": 10, "learning_rate": 5e-3, "augment": "none"}
EXPERIMENT: dict[str, Any] = {"findings": ("Effusion",), "learner": LEARNER, "num_resamples": 200, "seeds": (0, 1)}


def synthetic_rows(num: int, *, lying: bool = False) -> list[dict]:
    """Images of a model that draws what it was asked for, or that draws the square whatever it was asked for."""
    rows = planted_rows(num, split="synthetic")
    for i, row in enumerate(rows):
        row.update(patient_id="", seed=1, generation='{"steps":1}')
        if lying:
            row["drawn"] = NIH.bit("Effusion") if i // 2 % 2 else 0
    return rows


def people(rows: list[dict]) -> list[dict]:
    """The rows with sexes and ages that differ."""
    return [dict(row, sex="FM"[i // 2 % 2], age=[12.0, 30.0, 50.0, 70.0][i // 4 % 4]) for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """16-px images with a bright square where there is Effusion: 120 train, 160 test, 120 synthetic, 120 that lie."""
    folder = tmp_path_factory.mktemp("planted")
    real = write_planted(folder / "real", [*planted_rows(120), *people(planted_rows(160, split="test"))], size=16)
    made = write_planted(folder / "made", synthetic_rows(120), size=16, synthetic=True)
    lying = write_planted(folder / "lying", synthetic_rows(120, lying=True), size=16, synthetic=True)
    return {"real": real.folder, "synthetic": made.folder, "lying": lying.folder}


def measured(folder: Path, inputs: dict[str, Path], **values: Any) -> BenefitResult:
    settings = EvaluateStage(
        name="study",
        kind="evaluate",
        inputs={"real": "r", "synthetic": "s"},
        threads=1,
        benefit=({**EXPERIMENT, **values},),
    )
    folder.mkdir()
    context = Context(settings, {name: inputs[name] for name in ("real", "synthetic")}, 5, folder)
    work = Work(StageFolder(folder), jobs.evaluate, context, {})
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return Metrics.model_validate_json((folder / FILE).read_text()).benefit[0]


def of(result: BenefitResult, arm: str, finding: str = "Effusion") -> ArmAuroc:
    return next(one for one in result.by_labels[0].aurocs if (one.arm, one.finding) == (arm, finding))


@pytest.fixture(scope="module")
def result(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> BenefitResult:
    """Of every kind of arm, with labels that people gave to half of the test images: the opposite of the Dataset's."""
    folder = tmp_path_factory.mktemp("benefit")
    rows = planted_rows(80, split="test")
    lines = [f"{row['image_id']},{'' if row['labels'] else 'Effusion'}" for row in rows]
    (folder / "labels.csv").write_text("\n".join(["image_id,findings", *lines]))
    arms = {"replace_percent": (50,), "add_percent": (50,), "pretrain": True, "learning_curve_percent": (25, 50)}
    primary = {"arm": "replace-50", "against": "real-50", "finding": "Effusion"}
    return measured(
        folder / "study", datasets, **arms, primary=primary, adjudicated=folder / "labels.csv", min_images=11
    )


def test_given_images_that_show_what_they_were_asked_for_then_every_arm_learns_it(result: BenefitResult) -> None:
    assert [(arm.arm, arm.num_real, arm.num_synthetic) for arm in result.arms] == [
        ("real", 120, 0),
        ("synthetic", 0, 120),
        ("replace-50", 60, 60),
        ("add-50", 120, 60),
        ("pretrain", 120, 120),
        ("real-25", 30, 0),
        ("real-50", 60, 0),
    ]
    recorded = result.by_labels[0]
    assert recorded.labels == "as recorded"
    for arm in ("real", "synthetic", "replace-50", "add-50", "pretrain"):
        assert of(result, arm).auroc.value > 0.9, arm
        assert of(result, arm, "macro").auroc.value == of(result, arm).auroc.value
    (tested,) = recorded.findings
    assert (tested.num_with, tested.num_without) == (80, 80)
    assert tested.view_only is not None
    assert tested.view_only.value == 0.5


def test_given_a_primary_comparison_then_it_stands_alone_and_the_others_are_corrected(result: BenefitResult) -> None:
    recorded = result.by_labels[0]
    assert recorded.primary is not None
    assert (recorded.primary.arm, recorded.primary.against, recorded.primary.p_holm) == ("replace-50", "real-50", None)
    others = [(one.arm, one.against, one.finding) for one in recorded.comparisons]
    assert others == [(arm, "real", "Effusion") for arm in ("synthetic", "replace-50", "add-50", "pretrain")]
    assert all(one.p_holm is not None and one.p_holm >= one.p for one in recorded.comparisons)


def test_given_a_learning_curve_then_every_arm_with_synthetic_images_has_a_rate_or_a_reason(
    result: BenefitResult,
) -> None:
    rates = result.by_labels[0].exchange
    assert {rate.arm for rate in rates} == {"synthetic", "replace-50", "add-50", "pretrain"}
    assert all((rate.rate is None) != (rate.not_computed is None) for rate in rates)
    assert result.curve == {"real-25": 30, "real-50": 60, "real": 120}


def test_given_labels_by_people_then_both_are_reported(result: BenefitResult) -> None:
    recorded, adjudicated = result.by_labels
    assert (adjudicated.labels, adjudicated.num_images, recorded.num_images) == ("adjudicated", 80, 160)
    opposite = next(one for one in adjudicated.aurocs if one.arm == "real")
    assert opposite.auroc.value < 0.1


def test_given_groups_of_patients_then_each_has_numbers_or_says_how_few_they_are(result: BenefitResult) -> None:
    found = {(one.by, one.group): one for one in result.by_labels[0].groups}
    women = found["sex", "F"]
    assert (women.num_with, women.num_without, women.num_patients) == (40, 40, 40)
    assert set(women.aurocs) == {"replace-50", "real-50"}
    assert women.difference is not None
    assert {group for by, group in found if by == "age"} == {"0-17", "18-39", "40-64", "65 and older"}
    few = {(one.by, one.group): one for one in result.by_labels[1].groups}["age", "0-17"]
    assert (few.not_computed, few.aurocs) == ("10 test images with Effusion, 11 are needed", {})


def test_given_a_generator_that_ignores_the_label_as_shuffled_ones_would_be_then_its_arm_is_at_chance(
    datasets: dict[str, Path], tmp_path: Path
) -> None:
    inputs = {**datasets, "synthetic": datasets["lying"]}
    result = measured(tmp_path / "study", inputs, replace_percent=())
    at = of(result, "synthetic").auroc
    assert at.low < 0.5 < at.high
    assert of(result, "real").auroc.value > 0.9
    (change,) = [one for one in result.by_labels[0].comparisons if one.finding == "Effusion"]
    assert change.difference.high < 0
    assert change.p_holm is not None
    assert change.p_holm < 0.05


def test_given_the_same_inputs_then_scores_and_numbers_are_equal(datasets: dict[str, Path], tmp_path: Path) -> None:
    values = {"synthetic": False, "seeds": (0,), "learner": {**LEARNER, "steps": 6, "warmup_steps": 1}}
    one, two = (measured(tmp_path / name, datasets, **values) for name in ("one", "two"))
    assert one == two

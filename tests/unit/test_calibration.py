"""The judge's calibration: scores that are probabilities and scores that are not, and what training's weights do."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from cxr_core.data.findings import Findings
from cxr_core.evaluation.calibration.measure import calibration, measure_calibration
from cxr_core.evaluation.calibration.results import CalibrationResult
from cxr_core.evaluation.faithfulness import judge_synthetic
from cxr_core.evaluation.settings import Faithfulness
from cxr_core.evaluation.trial import JudgedImages
from cxr_core.models.balance import positive_weights, unweighted

VOCABULARY = Findings(("Edema", "Mass"))
QUICK = Faithfulness(num_resamples=200, num_permutations=40, min_images=20)


def probabilities(num: int, seed: int) -> np.ndarray:
    """Chances (n, 2) of two findings: Edema plain, Mass hardly above a coin for anyone."""
    draw = np.random.default_rng(seed)
    return np.stack([1 / (1 + np.exp(-2 * draw.normal(size=num))), np.full(num, 0.5) + 1e-3 * draw.random(num)], 1)


def images(chances: np.ndarray, seed: int, split: str = "test") -> pd.DataFrame:
    """Images whose findings are drawn with these chances; men, women and ages in turn."""
    num = len(chances)
    labels = (np.random.default_rng([seed, 1]).random(chances.shape) < chances) @ np.array([1, 2])
    ids = [f"{split}-{i:05d}" for i in range(num)]
    people = {"patient_id": ids if split == "test" else "", "sex": ["F", "M"] * (num // 2), "split": split}
    ages = np.resize([5.0, 30.0, 50.0, 80.0, np.nan], num)
    views = np.resize(["AP", "PA", "PA"], num)
    return pd.DataFrame({"image_id": ids, "view": views, "age": ages, "labels": labels, **people})


def judged(scores: np.ndarray, rows: pd.DataFrame) -> JudgedImages:
    return JudgedImages.of(rows, scores, VOCABULARY.names, VOCABULARY, what="real")


def test_given_true_probabilities_then_the_error_is_that_of_chance_and_brier_is_that_of_sklearn() -> None:
    chances = probabilities(2000, 1)
    rows = images(chances, 1)
    found = calibration(judged(chances, rows), "Edema", np.arange(2000), 200, 5)
    truth = rows["labels"] & 1
    assert found.brier.value == pytest.approx(brier_score_loss(truth, chances[:, 0]))
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, chances[:, 0]))
    assert found.ece.value < 2 * found.ece_floor
    assert [one.num_images for one in found.bins] == [200] * 10
    assert all(abs(one.score - one.share) < 0.12 for one in found.bins)


def test_given_scores_that_are_too_sure_then_the_error_is_beyond_chance() -> None:
    chances = probabilities(2000, 1)
    sure = chances**3 / (chances**3 + (1 - chances) ** 3)
    found = calibration(judged(sure, images(chances, 1)), "Edema", np.arange(2000), 200, 5)
    assert found.ece.low > 2 * found.ece_floor
    assert max(one.score - one.share for one in found.bins) > 0.05


def test_given_a_judge_trained_with_weights_then_taking_them_back_gives_probabilities_again() -> None:
    chances = probabilities(2000, 3)[:, :1]
    weights = positive_weights(np.array([250]), 2000)
    assert weights.tolist() == [7.0]
    seen = weights * chances / (weights * chances + 1 - chances)
    assert unweighted(seen, weights) == pytest.approx(chances)
    assert positive_weights(np.array([1, 1999]), 2000) == pytest.approx([20, 1 / 20])


@pytest.fixture(scope="module")
def result() -> CalibrationResult:
    """Edema is told by the judge, Mass is not; synthetic images are drawn as real ones are."""
    lived, drawn = probabilities(1000, 4), probabilities(600, 5)
    real, synthetic = images(lived, 4), images(drawn, 5, "synthetic")
    trial = judge_synthetic(real, lived, synthetic, drawn, VOCABULARY.names, VOCABULARY, QUICK, 5)
    return measure_calibration((real, lived), (synthetic, drawn), VOCABULARY, trial, QUICK, None, 5)


def test_given_a_judge_that_failed_its_trial_then_nothing_is_said_of_synthetic_images(
    result: CalibrationResult,
) -> None:
    edema, mass = result.findings
    assert edema.real is not None
    assert edema.synthetic is not None
    assert edema.synthetic.num_with + edema.synthetic.num_without == 600
    assert mass.real is not None
    assert mass.synthetic is None
    assert "is below 0.70" in str(mass.synthetic_not_computed)


def test_given_groups_then_the_judge_is_tried_in_each_and_few_images_are_named(result: CalibrationResult) -> None:
    found = {(one.by, one.group, one.finding): one for one in result.groups}
    women = found["sex", "F", "Edema"]
    assert women.num_patients == 500
    assert women.auroc is not None
    assert women.auroc.low > 0.7
    assert {(by, group) for by, group, _ in found if by != "sex"} == {
        ("age", "0-17"), ("age", "18-39"), ("age", "40-64"), ("age", "65 and older"), ("view", "AP"), ("view", "PA"),
    }  # fmt: skip


def test_given_a_group_of_few_then_its_number_says_so() -> None:
    lived, drawn = probabilities(60, 6), probabilities(60, 7)
    real, synthetic = images(lived, 6), images(drawn, 7, "synthetic")
    trial = judge_synthetic(real, lived, synthetic, drawn, VOCABULARY.names, VOCABULARY, QUICK, 5)
    result = measure_calibration((real, lived), (synthetic, drawn), VOCABULARY, trial, QUICK, None, 5)
    child = next(one for one in result.groups if one.group == "0-17")
    assert child.auroc is None
    assert child.not_computed == f"{child.num_with} images with Edema, 20 are needed"

"""The rule of a sweep and its alarms, on points whose features have a known answer."""

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.evaluation.featured import Featured
from cxr_core.evaluation.sweep.choose import alarms, choose
from cxr_core.evaluation.sweep.measure import Bench
from cxr_core.evaluation.sweep.results import Point, PointResult
from cxr_core.evaluation.sweep.settings import Sweep
from tests.unit.test_fidelity import MODEL, images, joined

NO_FOURS = pd.DataFrame({"group": [], "labels": np.array([], np.int64), "ms_ssim": []})


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Validation patients, and training patients who differ from them."""
    real = joined(images(300, "val", seed=1), images(600, "train", seed=3, shift=0.6))
    return Bench(real, MODEL, 64, NIH, Sweep(features="/x", resamples=40), seed=7)


def measured(bench: Bench, number: int, drawn: Featured, *, step: int | None = None) -> PointResult:
    point = Point(
        id=f"p{number:02d}",
        stage="candidates",
        series=f"s{number}",
        num_images=len(drawn.rows),
        model="",
        step=step if step is not None else 100 * (number + 1),
        guidance=2.0,
        steps=20,
        scheduler="ddim",
    )
    fours = {"real": NO_FOURS, "synthetic": NO_FOURS}
    return bench.point(point, drawn, 64, fours, 64, None, None)


@pytest.fixture(scope="module")
def results(bench: Bench) -> list[PointResult]:
    """Far from validation patients, near them, far again, and copies of training patients that are nearly as near."""
    train = bench.real.where(bench.real.rows["split"] == "train")
    copies = Featured(train.rows.assign(split="synthetic", patient_id=""), train.features)
    shifts = (-0.9, 0.0, -0.5)
    drawn = [*(images(500, "synthetic", seed=9, shift=shift) for shift in shifts), copies]
    return [measured(bench, number, each) for number, each in enumerate(drawn)]


def test_given_points_at_several_distances_the_nearest_is_recommended_and_the_rule_said(
    results: list[PointResult],
) -> None:
    best, rule = choose(results, "kid")
    assert best is results[1]
    assert "Recommended: candidates, step 200, guidance 2, KID " in rule
    assert rule.endswith("The intervals of all others lie apart from its own.")
    assert choose(results, "coverage")[0] is results[1]


def test_given_copies_of_training_images_they_raise_an_alarm_and_are_never_recommended(
    results: list[PointResult],
) -> None:
    assert [result.fidelity.alarm for result in results] == [False, False, False, True]
    best, rule = choose(results[3:], "kid")
    assert best is None
    assert "Nothing is recommended: all 1 points have a copying alarm." in rule
    said = alarms(results, results[1], [])
    assert said[0].startswith("candidates, step 400, guidance 2: synthetic images are nearer to training")


def test_given_later_checkpoints_that_are_farther_and_a_loss_that_rises_both_are_alarms(
    results: list[PointResult],
) -> None:
    said = alarms(results[:3], results[1], ["diffusion: its validation loss rises"])
    assert said == (
        "candidates, step 300, guidance 2 is farther from validation patients than candidates, step 200, guidance 2, "
        "an earlier checkpoint of the same guidance: training has gone on for too long",
        "diffusion: its validation loss rises",
    )


def test_given_points_of_one_distribution_the_rule_says_that_they_are_not_told_apart(bench: Bench) -> None:
    alike = [measured(bench, number, images(400, "synthetic", seed=20 + number)) for number in range(3)]
    assert "Not shown to be worse, since its interval overlaps theirs: 2 other points." in choose(alike, "kid")[1]


def test_given_too_few_images_nothing_is_recommended_and_the_reason_is_said(bench: Bench) -> None:
    best, rule = choose([measured(bench, 0, images(5, "synthetic", seed=9))], "fid")
    assert best is None
    assert "Nothing is recommended: FID could not be computed (n = " in rule

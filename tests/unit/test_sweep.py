"""The rule of a sweep and its alarms, on points whose features have a known answer."""

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.evaluation.featured import Featured
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.sweep.choose import alarms, choose
from cxr_core.evaluation.sweep.copies import alarm_rule, judge_copies
from cxr_core.evaluation.sweep.measure import Bench
from cxr_core.evaluation.sweep.results import Copied, Point, PointResult
from cxr_core.evaluation.sweep.settings import Copies, Sweep
from tests.unit.test_fidelity import MODEL, images, joined
from tests.unit.test_report_memorisation import near, result

NO_FOURS = pd.DataFrame({"group": [], "labels": np.array([], np.int64), "ms_ssim": []})


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Validation patients, and training patients who differ from them."""
    real = joined(images(300, "val", seed=1), images(600, "train", seed=3, shift=0.6))
    return Bench(real, MODEL, 64, NIH, Sweep(features="/x", num_resamples=40), seed=7)


def measured(bench: Bench, number: int, drawn: Featured, *, step: int | None = None) -> PointResult:
    at = point(number, step if step is not None else 100 * (number + 1))
    fours = {"real": NO_FOURS, "synthetic": NO_FOURS}
    return bench.point(at, drawn, 64, fours, 64, None, None)


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
    best, rule = choose(results, "coverage")
    assert best is results[1]
    assert rule.endswith("Not shown to be worse, since its interval overlaps theirs: 1 other point.")
    assert choose(results[1:2], "coverage")[1].endswith("coverage 0.927.")


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


def point(number: int, step: int | None, guidance: float = 2.0) -> Point:
    return Point(
        id=f"p{number:02d}",
        stage="candidates",
        series=f"s{number}",
        num_images=500,
        model="",
        step=step,
        guidance=guidance,
        steps=20,
        scheduler="ddim",
    )


def judged(
    shares: list[tuple[float, float, float]], rule: Copies, steps: list[int], guidance: float = 2.0
) -> list[Copied]:
    """Points of one training whose shares (value, low, high) of images are beyond the 99.9th percentile."""
    found = []
    for number, (step, (value, low, high)) in enumerate(zip(steps, shares, strict=True)):
        pixels = near("pixels, aligned", share_above=Interval(value=value, low=low, high=high))
        found.append((point(number, step, guidance if number else 2.0), result(pixels=pixels)))
    return judge_copies(found, rule)


def test_given_more_copies_than_real_patients_have_or_than_the_config_allows_the_alarm_is_raised() -> None:
    shares = [(0.004, 0.0004, 0.01), (0.02, 0.01, 0.04)]
    few, many = judged(shares, Copies(rising=False), [100, 200])
    assert (few.alarm, many.alarm) == (False, True)
    assert (few.floor, few.at_most) == (0.001, 0.001)
    assert many.words == (
        "Alarm: 2 % (1 to 4 %) of its images align with a training image better than 99.9 % of validation images do, "
        "more than 0.1 %."
    )
    assert [each.alarm for each in judged(shares, Copies(max_share=0.015, rising=False), [100, 200])] == [False, False]


def test_given_a_share_that_rises_with_training_steps_beyond_that_of_real_patients_the_alarm_is_raised() -> None:
    shares = [(0.0, 0.0, 0.002), (0.006, 0.003, 0.01)]
    rule = Copies(max_share=0.004)
    assert [each.alarm for each in judged(shares, rule, [100, 200])] == [False, True]
    assert judged(shares, rule, [100, 200])[1].words.endswith(
        "more than of candidates, step 100, guidance 2 (0 % (0 to 0.2 %)), an earlier checkpoint."
    )
    assert not judged(shares, rule, [200, 100])[1].alarm
    assert not judged(shares, rule, [100, 200], guidance=5.0)[1].alarm
    assert not judged(shares, Copies(max_share=0.004, rising=False), [100, 200])[1].alarm
    low = [(0.0, 0.0, 0.0002), (0.0008, 0.0004, 0.002)]  # no more than real patients have
    assert not judged(low, Copies(), [100, 200])[1].alarm


def test_given_too_few_validation_images_there_is_no_alarm_but_the_reason() -> None:
    pixels = near("pixels, aligned", threshold=None, share_above=None, not_computed="n = 9 held-out images")
    (found,) = judge_copies([(point(0, 100), result(pixels=pixels))], Copies())
    assert (found.alarm, found.share) == (None, None)
    assert found.words == "Whether its images are copies cannot be told: n = 9 held-out images."


def test_given_the_rule_what_raises_the_alarm_is_said_in_words() -> None:
    said = alarm_rule(99.9, Copies())
    assert "better than 99.9 % of validation images do lies above 0.1 % with its whole interval, or is above" in said
    assert "earlier checkpoint" not in alarm_rule(99.9, Copies(rising=False))
    assert "lies above 2 %" in alarm_rule(99.9, Copies(max_share=0.02))
    assert alarm_rule(None, Copies()).endswith("were not looked for (`memorisation`).")


def test_given_copies_that_no_distance_shows_the_point_is_not_recommended(results: list[PointResult]) -> None:
    (copied,) = judged([(0.02, 0.01, 0.04)], Copies(), [200])
    copying = results[1].model_copy(update={"copies": copied})
    given = [results[0], copying, results[2]]
    assert not copying.fidelity.alarm
    assert choose(given, "kid")[0] is results[2]
    assert alarms(given, results[2], [])[0].startswith("candidates, step 200, guidance 2: 2 % (1 to 4 %) of its images")

"""The rule of a sweep and its alarms, on points whose features have a known answer."""

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.sweep.choose import alarms, choose, not_worse
from cxr_core.evaluation.sweep.copies import judge_copies
from cxr_core.evaluation.sweep.measure import PointEvaluator
from cxr_core.evaluation.sweep.results import Copied, Point, PointResult, SweepAlarm, SweepResult
from cxr_core.evaluation.sweep.settings import Copies, EvaluateSweep, Measure
from cxr_core.report.sweep_words import alarm_rule, alarm_words, choice_words, copied_words
from tests.unit.test_fidelity import MODEL, images, joined
from tests.unit.test_report_memorisation import near, result

NO_FOURS = pd.DataFrame({"group": [], "labels": np.array([], np.int64), "ms_ssim": []})


@pytest.fixture(scope="module")
def bench() -> PointEvaluator:
    """Validation patients, and training patients who differ from them."""
    real = joined(images(300, "val", seed=1), images(600, "train", seed=3, shift=0.6))
    return PointEvaluator(real, MODEL, 64, NIH, EvaluateSweep(features="/x", num_resamples=40), seed=7)


def measured(bench: PointEvaluator, number: int, drawn: FeatureRows, *, step: int | None = None) -> PointResult:
    at = point(number, step if step is not None else 100 * (number + 1))
    fours = {"real": NO_FOURS, "synthetic": NO_FOURS}
    return bench.point(at, drawn, 64, fours, 64, None, None)


@pytest.fixture(scope="module")
def results(bench: PointEvaluator) -> list[PointResult]:
    """Far from validation patients, near them, far again, and copies of training patients that are nearly as near."""
    train = bench.real.where(bench.real.rows["split"] == "train")
    copies = FeatureRows(train.rows.assign(split="synthetic", patient_id=""), train.features)
    shifts = (-0.9, 0.0, -0.5)
    drawn = [*(images(500, "synthetic", seed=9, shift=shift) for shift in shifts), copies]
    return [measured(bench, number, each) for number, each in enumerate(drawn)]


def swept(results: list[PointResult], by: Measure, rises: tuple[SweepAlarm, ...] = ()) -> SweepResult:
    """What a stage writes of these points."""
    best = choose(results, by)
    return SweepResult(
        by=by,
        points=tuple(results),
        chosen=best.point.id if best else None,
        rising=True,
        alarms=alarms(results, best, rises),
        num_real_computed=0,
        num_real_seen=0,
    )


def test_given_points_at_several_distances_the_nearest_is_recommended_and_the_rule_said(
    results: list[PointResult],
) -> None:
    by_kid, by_coverage = swept(results, "kid"), swept(results, "coverage")
    assert by_kid.chosen == by_coverage.chosen == "p01"
    assert "Recommended: candidates, step 200, guidance 2, KID " in choice_words(by_kid)
    assert "lie apart" in choice_words(by_kid)
    assert [each.point.id for each in not_worse(results, results[1], "coverage")] == ["p02"]
    assert choice_words(by_coverage).endswith("overlaps theirs: 1 other point.")
    assert choice_words(swept(results[1:2], "coverage")).endswith("coverage 0.927.")


def test_given_copies_of_training_images_they_raise_an_alarm_and_are_never_recommended(
    results: list[PointResult],
) -> None:
    assert [result.fidelity.alarm for result in results] == [False, False, False, True]
    none = swept(results[3:], "kid")
    assert none.chosen is None
    assert "all 1 points have a copying alarm" in choice_words(none)
    found = swept(results, "kid")
    assert found.alarms[0] == SweepAlarm(kind="distance", point="p03")
    said = alarm_words(found.alarms[0], found)
    assert said.startswith("candidates, step 400, guidance 2: synthetic images are nearer to training")


def test_given_later_checkpoints_that_are_farther_and_a_loss_that_rises_both_are_alarms(
    results: list[PointResult],
) -> None:
    rise = SweepAlarm(kind="loss", stage="diffusion", rise=0.031, best_step=1500)
    found = swept(results[:3], "kid", (rise,))
    assert found.alarms == (SweepAlarm(kind="past", point="p02"), rise)
    past, loss = (alarm_words(each, found) for each in found.alarms)
    for expected in ("candidates, step 300, guidance 2", "than candidates, step 200, guidance 2", "too long"):
        assert expected in past
    assert loss.startswith("diffusion: its validation loss is 3.1 % above that of step 1,500")


def test_given_points_of_one_distribution_the_rule_says_that_they_are_not_told_apart(bench: PointEvaluator) -> None:
    alike = [measured(bench, number, images(400, "synthetic", seed=20 + number)) for number in range(3)]
    assert choice_words(swept(alike, "kid")).endswith("overlaps theirs: 2 other points.")


def test_given_too_few_images_nothing_is_recommended_and_the_reason_is_said(bench: PointEvaluator) -> None:
    found = swept([measured(bench, 0, images(5, "synthetic", seed=9))], "fid")
    assert found.chosen is None
    assert "FID could not be computed (n = " in choice_words(found)


def test_given_a_sweep_of_an_older_version_its_numbers_are_read_and_its_alarms_shown_as_they_stand(
    results: list[PointResult],
) -> None:
    (copied,) = judged([(0.02, 0.01, 0.04)], Copies(), [200])
    now = swept([results[0], results[1].model_copy(update={"copies": copied})], "kid")
    old = now.model_dump(mode="json", exclude={"rising"})
    old |= {"rule": "Rule: ...", "alarm_rule": "A point ...", "alarms": ["candidates, step 200: copies"]}
    for each in old["points"]:
        each["fidelity"] |= {"alarm_words": "No alarm: ...", "comparability": "Comparable ..."}
        for distance in ("headline", "beside_floor", "floor", "to_held_out", "to_train"):
            each["fidelity"][distance]["coverage"]["words"] = "covers 100 % of the request"
        if each["copies"]:
            each["copies"]["words"] = "Alarm: ..."
    read = SweepResult.model_validate(old)
    assert read.points == now.points
    assert [alarm_words(each, read) for each in read.alarms] == ["candidates, step 200: copies"]
    assert choice_words(read) == choice_words(now)


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
    assert (many.share, many.at_most) == (Interval(value=0.02, low=0.01, high=0.04), 0.001)
    assert [each.alarm for each in judged(shares, Copies(max_share=0.015, rising=False), [100, 200])] == [False, False]


def test_given_a_share_that_rises_with_training_steps_beyond_that_of_real_patients_the_alarm_is_raised() -> None:
    shares = [(0.0, 0.0, 0.002), (0.006, 0.003, 0.01)]
    rule = Copies(max_share=0.004)
    assert [each.alarm for each in judged(shares, rule, [100, 200])] == [False, True]
    assert [each.risen_from for each in judged(shares, rule, [100, 200])] == [None, "p00"]
    assert not judged(shares, rule, [200, 100])[1].alarm
    assert not judged(shares, rule, [100, 200], guidance=5.0)[1].alarm
    assert not judged(shares, Copies(max_share=0.004, rising=False), [100, 200])[1].alarm
    low = [(0.0, 0.0, 0.0002), (0.0008, 0.0004, 0.002)]  # no more than real patients have
    assert not judged(low, Copies(), [100, 200])[1].alarm


def test_given_too_few_validation_images_there_is_no_alarm_but_the_reason() -> None:
    pixels = near("pixels, aligned", threshold=None, share_above=None, not_computed="n = 9 held-out images")
    (found,) = judge_copies([(point(0, 100), result(pixels=pixels))], Copies())
    assert (found.alarm, found.share) == (None, None)
    assert found.not_computed == "n = 9 held-out images"


def with_copies(results: list[PointResult], rule: Copies, *shares: tuple[float, float, float]) -> SweepResult:
    """A sweep of the first points with these shares of copies."""
    found = judged(list(shares), rule, [100 * (i + 1) for i in range(len(shares))])
    points = [one.model_copy(update={"copies": copied}) for one, copied in zip(results, found, strict=False)]
    return swept(points, "kid").model_copy(update={"rising": rule.rising})


def test_given_the_rule_what_raises_the_alarm_is_said_in_words(results: list[PointResult]) -> None:
    share = (0.0, 0.0, 0.002)
    said = alarm_rule(with_copies(results, Copies(), share))
    assert "better than 99.9 % of validation images do lies above 0.1 % with its whole interval, or is above" in said
    assert "earlier checkpoint" not in alarm_rule(with_copies(results, Copies(rising=False), share))
    assert "lies above 2 %" in alarm_rule(with_copies(results, Copies(max_share=0.02), share))
    assert "were not looked for (`memorisation`)" in alarm_rule(swept(results, "kid"))


def test_given_shares_of_copies_each_point_says_its_own_and_what_it_lies_above(results: list[PointResult]) -> None:
    found = with_copies(results, Copies(max_share=0.004), (0.0, 0.0, 0.002), (0.006, 0.003, 0.01))
    first, second = (copied_words(each.copies, found) for each in found.points if each.copies)
    assert first.startswith("No alarm: 0 % (0 to 0.2 %) of its images")
    assert "more than of candidates, step 100, guidance 2 (0 % (0 to 0.2 %))" in second
    many = with_copies(results, Copies(), (0.02, 0.01, 0.04))
    (said,) = (copied_words(each.copies, many) for each in many.points if each.copies)
    assert said.startswith("Alarm: 2 % (1 to 4 %) of its images")
    assert said.endswith("more than 0.1 %.")


def test_given_copies_that_no_distance_shows_the_point_is_not_recommended(results: list[PointResult]) -> None:
    (copied,) = judged([(0.02, 0.01, 0.04)], Copies(), [200])
    copying = results[1].model_copy(update={"copies": copied})
    given = [results[0], copying, results[2]]
    assert not copying.fidelity.alarm
    found = swept(given, "kid")
    assert found.chosen == "p02"
    assert found.alarms[0] == SweepAlarm(kind="copies", point="p01")
    assert alarm_words(found.alarms[0], found).startswith("candidates, step 200, guidance 2: 2 % (1 to 4 %) of its")

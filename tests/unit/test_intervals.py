"""Accuracy, AUROC and their bootstrap intervals, against scikit-learn and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score

from cxr_core.evaluation import intervals
from cxr_core.evaluation.intervals import (
    NUM_RESAMPLES,
    Bootstrap,
    Contrast,
    auroc_intervals,
    mean_interval,
    patient_weights,
    resamples,
    shuffled_intervals,
    view_rule,
)
from cxr_core.models.scores import accuracy, auroc


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(4, 60), st.integers(1, 5))
def test_given_weights_and_ties_both_metrics_equal_scikit_learn(seed: int, num: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.arange(num) % 2
    scores = generator.integers(0, levels + 1, num) / levels * 0.9
    weights = generator.integers(1, 4, num)
    assert auroc(scores, labels, weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    decided = scores != 0.5
    if decided.any():
        expected = accuracy_score(labels[decided], scores[decided] > 0.5, sample_weight=weights[decided])
        assert accuracy(scores[decided], labels[decided], weights[decided]) == pytest.approx(expected)


def test_given_resamples_whole_patients_are_drawn() -> None:
    weights = patient_weights(np.array(["a", "b", "a", "c"]), seed=1)
    assert weights.shape == (NUM_RESAMPLES, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)


def test_given_a_classifier_without_knowledge_the_interval_holds_one_half() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    found = Bootstrap(labels, np.arange(400).astype(str), 1, seed=0).one(generator.random(400))
    for interval in (found.accuracy, found.auroc):
        assert interval.low < 0.5 < interval.high
        assert 0.05 < interval.high - interval.low < 0.15  # of 400 images: 4 standard errors of 0.025


def test_given_images_of_few_patients_the_interval_is_wider_than_for_as_many_patients() -> None:
    labels = np.arange(400) % 2
    scores = np.repeat(np.random.default_rng(0).random(20) < 0.8, 20) == labels  # right or wrong by patient
    few = Bootstrap(labels, np.repeat(np.arange(20), 20).astype(str), 1, seed=0).one(scores * 1.0)
    many = Bootstrap(labels, np.arange(400).astype(str), 1, seed=0).one(scores * 1.0)
    assert few.accuracy.high - few.accuracy.low > 2 * (many.accuracy.high - many.accuracy.low)


def test_given_equal_arms_their_difference_is_exactly_zero() -> None:
    labels = np.arange(100) % 2
    scores = [np.random.default_rng(i).random(100) for i in range(3)]
    found = Bootstrap(labels, np.arange(100).astype(str), 3, seed=0).difference(scores, scores)
    assert (found.accuracy.low, found.accuracy.value, found.accuracy.high) == (0, 0, 0)


def test_given_seeds_that_disagree_the_pooled_interval_covers_their_spread() -> None:
    labels = np.arange(200) % 2
    right, wrong = labels.astype(float), 1.0 - labels
    found = Bootstrap(labels, np.arange(200).astype(str), 2, seed=0).mean([right, wrong])
    assert found.accuracy.value == pytest.approx(0.5)
    assert (found.accuracy.low, found.accuracy.high) == (0, 1)


def test_given_views_the_view_rule_has_its_closed_form() -> None:
    # 8 of 10 positives and 2 of 10 negatives are AP: P(finding | AP) = 0.8, P(finding | PA) = 0.2.
    views = np.array(["AP"] * 8 + ["PA"] * 2 + ["AP"] * 2 + ["PA"] * 8)
    labels = np.array([1] * 10 + [0] * 10)
    scores = view_rule(views, labels, np.array(["AP", "PA", "", "AP"]))
    np.testing.assert_allclose(scores, [0.8, 0.2, 0.5, 0.8])
    found = Bootstrap(labels, np.arange(20).astype(str), 1, seed=0).one(view_rule(views, labels, views))
    assert found.accuracy.value == pytest.approx(0.8)  # (8 + 8) of 20
    assert found.auroc.value == pytest.approx(0.8)  # 0.8 * 0.8 + (0.8 * 0.2 + 0.2 * 0.8) / 2


def test_given_a_view_without_preference_the_view_rule_is_a_coin() -> None:
    views, labels = np.array(["AP", "AP", "PA", "PA"]), np.array([0, 1, 0, 1])
    assert accuracy(view_rule(views, labels, views), labels, np.ones(4)) == 0.5


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(4, 60), st.integers(1, 5))
def test_given_weights_and_ties_a_contrast_has_the_same_auroc_in_each_resample(
    seed: int, num: int, levels: int
) -> None:
    generator = np.random.default_rng(seed)
    labels = np.arange(num) % 2 == 1
    scores = generator.integers(0, levels + 1, num) / levels
    weights = generator.choice([0.0, 0.5, 1.0, 3.0], num)
    counts = generator.integers(0, 3, (7, num))
    computed = Contrast(scores, labels, weights).aurocs(counts.T)
    np.testing.assert_allclose(computed, auroc(scores, labels, counts * weights), rtol=1e-12)


def test_given_blocks_of_another_size_the_resamples_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = np.arange(30) // 2
    expected = np.concatenate(list(resamples(patients, seed=1, num=25)))
    monkeypatch.setattr(intervals, "_BLOCK", 60)
    blocks = list(resamples(patients, seed=1, num=25))
    assert len(blocks) == 13
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_given_shuffled_labels_then_what_the_strata_tell_stays_and_the_rest_is_a_coin() -> None:
    view = np.repeat(["AP", "PA"], 500)
    labels = np.random.default_rng(1).random(1000) < np.where(view == "AP", 0.8, 0.2)
    scores = (view == "AP") + 0.1 * labels  # knows the view, and the label within it
    pooled = Contrast(scores, labels, np.ones(1000))
    inside = Contrast(scores, labels, (view == "AP").astype(float))
    shuffled = shuffled_intervals([pooled, inside], view, seed=1, num=200)
    by_view = auroc(np.where(view == "AP", 1.0, 0.0), labels, np.ones(1000))
    assert shuffled[0].value == pytest.approx(by_view, abs=0.01)
    assert shuffled[1].value == pytest.approx(0.5, abs=0.01)
    assert shuffled[1].low < 0.5 < shuffled[1].high


def wilson_low(num: int) -> float:
    """Wilson's lower bound of all of `num`."""
    return num / (num + 1.959964**2)


@pytest.mark.parametrize("num", [1, 2, 3, 50])
def test_given_patients_who_are_all_alike_then_the_interval_of_a_mean_is_wilsons_of_so_many(num: int) -> None:
    whose = np.arange(num).repeat(4)  # images of one patient are no more witnesses than one is
    for value, low, high in ((1.0, wilson_low(num), 1.0), (0.0, 0.0, 1 - wilson_low(num))):
        found = mean_interval(np.full(4 * num, value), whose, 3, 200)
        assert (found.value, found.low, found.high) == pytest.approx((value, low, high))


def test_given_scores_that_tell_all_apart_then_the_interval_is_that_of_the_rarer_class() -> None:
    labels = np.arange(40) < 8
    for scores, value in ((labels.astype(float), 1.0), (1.0 - labels, 0.0)):
        contrast = Contrast(scores, labels, np.ones(40))
        (found,) = auroc_intervals([contrast], np.arange(40) // 2, 1, 200)
        wide = 1 - wilson_low(4)  # 8 images of 4 patients
        bounds = (1 - wide, 1) if value else (0, wide)
        assert (found.value, found.low, found.high) == pytest.approx((value, *bounds))
    (equal,) = auroc_intervals([Contrast(np.full(40, 0.3), labels, np.ones(40))], np.arange(40), 1, 200)
    assert (equal.value, equal.low, equal.high) == (0.5, 0.5, 0.5)


def test_given_a_perfect_classifier_then_its_intervals_and_its_lead_leave_room_for_chance() -> None:
    labels = np.arange(20) % 2
    of = Bootstrap(labels, np.arange(20), num_seeds=2, seed=1)
    right, also_right = labels * 0.8 + 0.1, labels * 0.6 + 0.2
    found = of.mean([right, also_right])
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((wilson_low(20), 1))
    assert (found.auroc.low, found.auroc.high) == pytest.approx((wilson_low(10), 1))
    lead = of.difference([right, right], [also_right, also_right])
    assert (lead.accuracy.low, lead.accuracy.value) == pytest.approx((wilson_low(20) - 1, 0))

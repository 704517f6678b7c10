"""The judge's trial and what it says of synthetic images, on planted scores whose truth is known."""

import re
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.findings import Findings
from cxr_core.errors import UserError
from cxr_core.evaluation.faithfulness import judge_synthetic
from cxr_core.evaluation.metrics import FaithfulnessResult, PromptContrast, Trial
from cxr_core.evaluation.settings import Faithfulness
from cxr_core.report.verdicts import prompt_words

VOCABULARY = Findings(("Edema", "Mass"))
BOTH = VOCABULARY.names
QUICK = Faithfulness(num_resamples=200, num_permutations=100)
EDEMA, MASS = 1, 2


def real_images(num_patients: int, *, each: int = 1, seed: int = 1, split: str = "test") -> pd.DataFrame:
    """Half AP; Edema in 60 % of AP and 15 % of PA, Mass in 30 %; all `each` images of a patient are alike."""
    generator = np.random.default_rng(seed)
    view = generator.choice(["AP", "PA"], num_patients)
    edema = generator.random(num_patients) < np.where(view == "AP", 0.6, 0.15)
    labels = EDEMA * edema + MASS * (generator.random(num_patients) < 0.3)
    patients = [f"{split}-{i:05d}" for i in range(num_patients)]
    rows = pd.DataFrame({"patient_id": patients, "view": view, "labels": labels, "split": split})
    rows = rows.loc[rows.index.repeat(each)].reset_index(drop=True)
    return rows.assign(image_id=[f"{split}-{i:06d}" for i in range(len(rows))])


def synthetic_images(num: int, *, seed: int = 2) -> pd.DataFrame:
    rows = real_images(num, seed=seed, split="synthetic")
    return rows.assign(patient_id="")


def scored(labels: pd.Series, strength: float, seed: int) -> np.ndarray:
    """Probabilities (n, 2) of a judge that sees each finding with noise; 0 sees nothing, 8 all."""
    signs = np.stack([labels & EDEMA != 0, labels & MASS != 0], axis=1)
    noise = np.random.default_rng([seed, 1]).normal(size=signs.shape)
    return 1 / (1 + np.exp(-(strength * (signs - 0.5) + noise)))


def judged(
    real: pd.DataFrame,
    real_scores: np.ndarray,
    synthetic: pd.DataFrame,
    synthetic_scores: np.ndarray,
    settings: Faithfulness = QUICK,
    **changes: Any,
) -> FaithfulnessResult:
    values: dict[str, Any] = {"findings": BOTH, "vocabulary": VOCABULARY, "settings": settings, "seed": 5}
    return judge_synthetic(real, real_scores, synthetic, synthetic_scores, **(values | changes))


def trial_of(result: FaithfulnessResult, finding: str, within: str) -> Trial:
    one = next(one for one in result.findings if one.finding == finding)
    return next(trial for trial in one.trial if trial.within == within)


def prompts_of(result: FaithfulnessResult, finding: str, within: str) -> PromptContrast:
    one = next(one for one in result.findings if one.finding == finding)
    return next(contrast for contrast in one.synthetic if contrast.within == within)


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    return real_images(500)


@pytest.fixture(scope="module")
def synthetic() -> pd.DataFrame:
    return synthetic_images(600)


def test_given_a_judge_of_random_scores_when_tried_then_it_is_refused_everywhere(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    result = judged(real, scored(real["labels"], 0, 1), synthetic, scored(synthetic["labels"], 8, 2))
    for finding in BOTH:
        for within in ("pooled", "AP", "PA"):
            contrast = prompts_of(result, finding, within)
            assert contrast.auroc is None
            assert contrast.histogram is None, "nothing of the synthetic scores gets out"
            assert re.fullmatch(
                rf"refused .*{within}.*AUROC 0\.\d\d, lower bound 0\.\d\d is below 0\.70", str(contrast.refused)
            )


def test_given_a_good_judge_and_an_obedient_generator_then_the_findings_are_there_and_named_exaggerated(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    result = judged(real, scored(real["labels"], 2, 1), synthetic, scored(synthetic["labels"], 8, 2))
    for within in ("pooled", "AP", "PA"):
        contrast = prompts_of(result, "Edema", within)
        assert contrast.auroc is not None
        assert contrast.real is not None
        assert contrast.auroc.value > 0.99
        assert contrast.real.high < 0.99
        # All are told apart; of the 48 with Edema in PA that proves no more than 0.93, which real images may have.
        overlap, fewer = within == "PA", min(contrast.num_with, contrast.num_without)
        assert contrast.auroc.low == pytest.approx(fewer / (fewer + 1.96**2), abs=1e-4)
        assert (contrast.exaggerated, contrast.overlap) == (True, overlap)
        assert contrast.verdict == "exaggerated"
        assert ("do not overlap" in prompt_words(contrast)) is not overlap


def test_given_findings_as_clear_as_in_life_then_they_are_not_told_from_real_ones(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    result = judged(real, scored(real["labels"], 2.5, 1), synthetic, scored(synthetic["labels"], 2.5, 2))
    for finding in BOTH:
        contrast = prompts_of(result, finding, "pooled")
        assert contrast.overlap is True
        assert contrast.verdict in ("not_told_apart", "exaggerated")
        assert "intervals overlap" in prompt_words(contrast)


def test_given_findings_fainter_than_in_life_then_the_verdict_says_so(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    result = judged(real, scored(real["labels"], 5, 1), synthetic, scored(synthetic["labels"], 1, 2))
    contrast = prompts_of(result, "Mass", "pooled")
    assert contrast.exaggerated is False
    assert contrast.verdict == "fainter"


def test_given_generators_that_ignore_their_prompt_then_chance_explains_them_as_often_as_the_intervals_say(
    real: pd.DataFrame,
) -> None:
    """In 95 % of draws the interval covers 0.5 and shuffled prompts cover the AUROC: here in 54 of 60 or more."""
    settings = Faithfulness(num_resamples=100, num_permutations=100)
    scores, covers, explains, told = scored(real["labels"], 4, 1), 0, 0, 0
    for seed in range(60):
        synthetic = synthetic_images(200, seed=100 + seed)
        drawn = scored(synthetic["labels"].sample(frac=1, random_state=seed, ignore_index=True), 4, seed)
        contrast = prompts_of(judged(real, scores, synthetic, drawn, settings), "Mass", "pooled")
        assert contrast.auroc is not None
        assert contrast.chance is not None
        covers += contrast.auroc.low <= 0.5 <= contrast.auroc.high
        explains += contrast.chance.low <= contrast.auroc.value <= contrast.chance.high
        told += contrast.verdict == "not_shown"
        assert contrast.chance.value == pytest.approx(0.5, abs=0.03)
    assert min(covers, explains, told) >= 54


def test_given_a_generator_that_obeys_the_view_alone_then_shuffled_prompts_show_the_shortcut(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    """Images of Edema drawn by the view's share: pooled above 0.5, and no better than shuffled prompts."""
    generator = np.random.default_rng(4)
    drawn = (generator.random(len(synthetic)) < np.where(synthetic["view"] == "AP", 0.6, 0.15)).astype(int)
    result = judged(real, scored(real["labels"], 5, 1), synthetic, scored(pd.Series(drawn), 5, 2))
    contrast = prompts_of(result, "Edema", "pooled")
    assert contrast.auroc is not None
    assert contrast.auroc.low > 0.5
    assert contrast.verdict == "not_shown"


def test_given_prompts_followed_backwards_then_the_verdict_is_reversed(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    opposite = (EDEMA | MASS) - synthetic["labels"]
    result = judged(real, scored(real["labels"], 4, 1), synthetic, scored(opposite, 4, 2))
    assert prompts_of(result, "Edema", "AP").verdict == "reversed"


def test_given_a_judge_that_reads_the_view_alone_then_it_passes_pooled_and_is_refused_within_views() -> None:
    generator = np.random.default_rng(1)
    real, synthetic = real_images(800), synthetic_images(300)
    real = real.assign(labels=((real["view"] == "AP") ^ (generator.random(800) < 0.1)).astype(int))
    synthetic = synthetic.assign(labels=((synthetic["view"] == "AP") ^ (generator.random(300) < 0.1)).astype(int))

    def view_reader(rows: pd.DataFrame) -> np.ndarray:
        score = np.where(rows["view"] == "AP", 0.8, 0.2) + generator.normal(0, 0.01, len(rows))
        return np.stack([score, score], axis=1)

    result = judged(real, view_reader(real), synthetic, view_reader(synthetic))
    pooled = trial_of(result, "Edema", "pooled")
    assert pooled.refused is None
    assert pooled.view_only is not None
    assert pooled.auroc is not None
    assert pooled.auroc.low < pooled.view_only.value, "it knows no more than the view"
    for within in ("AP", "PA"):
        assert str(trial_of(result, "Edema", within).refused).startswith(f"refused within {within}: AUROC 0.")
    contrast = prompts_of(result, "Edema", "pooled")
    assert contrast.auroc is None
    assert str(contrast.refused).startswith("refused pooled: the judge is refused within AP: AUROC 0.")
    assert "; refused within PA: AUROC 0." in str(contrast.refused)


def test_given_a_judge_that_fails_in_one_view_then_images_of_the_other_are_still_judged(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    scores = scored(real["labels"], 5, 1)
    scores[real["view"] == "PA"] = scored(real["labels"], 0, 1)[real["view"] == "PA"]
    result = judged(real, scores, synthetic, scored(synthetic["labels"], 5, 2))
    assert prompts_of(result, "Edema", "AP").auroc is not None
    assert prompts_of(result, "Edema", "PA").auroc is None
    assert prompts_of(result, "Edema", "pooled").auroc is None

    only_ap = synthetic[synthetic["view"] == "AP"].reset_index(drop=True)
    result = judged(real, scores, only_ap, scored(only_ap["labels"], 5, 2))
    assert prompts_of(result, "Edema", "PA").refused == trial_of(result, "Edema", "PA").refused
    pooled = prompts_of(result, "Edema", "pooled")
    assert pooled.auroc == prompts_of(result, "Edema", "AP").auroc, "the judge passed in the one view they are in"


def test_given_too_few_images_then_the_refusal_counts_them(real: pd.DataFrame, synthetic: pd.DataFrame) -> None:
    ap_mass = (real["view"] == "AP") & (real["labels"] & MASS != 0)
    few = real[~(ap_mass & (ap_mass.cumsum() > 4))].reset_index(drop=True)
    result = judged(few, scored(few["labels"], 6, 1), synthetic, scored(synthetic["labels"], 6, 2))
    assert trial_of(result, "Mass", "AP").auroc is None
    assert prompts_of(result, "Mass", "AP").refused == "refused within AP: 4 images with Mass, 10 are needed"
    pooled = "refused pooled: the judge is refused within AP: 4 images with Mass, 10 are needed"
    assert prompts_of(result, "Mass", "pooled").refused == pooled
    assert prompts_of(result, "Mass", "PA").auroc is not None

    one = synthetic.assign(labels=[MASS] + [EDEMA] * (len(synthetic) - 1))
    result = judged(real, scored(real["labels"], 6, 1), one, scored(one["labels"], 6, 2))
    text = "refused pooled: 1 synthetic image with Mass, 10 are needed"
    assert prompts_of(result, "Mass", "pooled").refused == text
    text = "refused pooled: 1 synthetic image without Edema, 10 are needed"
    assert prompts_of(result, "Edema", "pooled").refused == text


def test_given_no_real_images_of_the_split_then_every_number_is_refused(synthetic: pd.DataFrame) -> None:
    real = real_images(50, split="train")
    result = judged(real, scored(real["labels"], 6, 1), synthetic, scored(synthetic["labels"], 6, 2))
    assert prompts_of(result, "Edema", "AP").refused == "refused within AP: 0 images with Edema, 10 are needed"
    assert result.num_real == 0
    assert result.num_covered == 0


def test_given_many_images_of_few_patients_then_intervals_are_over_patients() -> None:
    alone, repeated = real_images(400), real_images(40, each=10)
    widths = []
    for real in (alone, repeated):
        per_patient = scored(real["labels"], 1.5, 1)[pd.factorize(real["patient_id"])[0]]
        synthetic = synthetic_images(50)
        result = judged(real, per_patient, synthetic, scored(synthetic["labels"], 2, 2))
        auroc = trial_of(result, "Mass", "pooled").auroc
        assert auroc is not None
        widths.append(auroc.high - auroc.low)
    assert widths[1] > 1.8 * widths[0], "both have 400 images"


def test_given_a_finding_of_one_patient_then_its_judge_is_refused_however_good(synthetic: pd.DataFrame) -> None:
    real = real_images(300)
    real["labels"] &= ~EDEMA
    real.loc[real["view"] == "AP", "labels"] = MASS
    real = pd.concat([real, real_images(1, each=12, seed=9).assign(patient_id="x", labels=EDEMA, view="AP")])
    real = real.assign(image_id=[f"i{i:04d}" for i in range(len(real))]).reset_index(drop=True)
    result = judged(real, scored(real["labels"], 9, 1), synthetic, scored(synthetic["labels"], 9, 2))
    tried = trial_of(result, "Edema", "AP")
    assert (tried.num_with, tried.num_patients_with) == (12, 1)
    assert tried.refused == "refused within AP: AUROC 1.00, lower bound 0.00 is below 0.70"


def test_given_another_mix_of_views_and_labels_then_real_images_are_weighted_to_it(real: pd.DataFrame) -> None:
    """Real scores that differ by cell: weighting gives the AUROC of the mix that was asked for, not of the pool."""
    mixed = synthetic_images(4000).assign(labels=lambda rows: np.where(rows["view"] == "AP", EDEMA, 0))
    flip = np.random.default_rng(8).random(4000) < 0.5
    mixed.loc[flip, "labels"] = 0
    scores = scored(real["labels"], 3, 1)
    result = judged(real, scores, mixed, scored(mixed["labels"], 3, 2))
    contrast = prompts_of(result, "Edema", "AP")
    inside = (real["view"] == "AP") & real["labels"].isin([0, EDEMA])
    having = real["labels"] == EDEMA
    above = scores[inside & having, 0][:, None] > scores[inside & ~having, 0][None]
    assert contrast.real is not None
    assert contrast.real.value == pytest.approx(above.mean()), "images with Mass were not asked for"
    assert contrast.matched == contrast.auroc
    assert result.missing == {}


def test_given_cells_that_real_images_lack_then_they_are_named_and_left_out_of_the_comparison(
    real: pd.DataFrame,
) -> None:
    lacking = real[real["labels"] != EDEMA + MASS].reset_index(drop=True)
    synthetic = synthetic_images(600)
    scores = scored(synthetic["labels"], 6, 2)
    beside = synthetic["labels"] == EDEMA + MASS
    scores[beside] = scored(0 * synthetic["labels"], 6, 2)[beside]  # they show neither
    result = judged(lacking, scored(lacking["labels"], 6, 1), synthetic, scores)
    assert set(result.missing) == {"Edema|Mass AP", "Edema|Mass PA"}
    assert sum(result.missing.values()) == int(beside.sum()) == 600 - result.num_covered
    contrast = prompts_of(result, "Edema", "pooled")
    assert contrast.auroc is not None
    assert contrast.matched is not None
    assert contrast.matched.value > contrast.auroc.value + 0.05

    rare = lacking[lacking["labels"] != 0].reset_index(drop=True)
    only = synthetic.assign(labels=np.where(synthetic["labels"] & EDEMA, EDEMA, 0))
    result = judged(rare, scored(rare["labels"], 6, 1), only, scored(only["labels"], 6, 2))
    contrast = prompts_of(result, "Edema", "AP")
    expected = "0.0 effective real images without Edema, as the requested mix weights them, 10 are needed"
    assert contrast.real_refused == expected
    assert contrast.verdict == "not_compared"
    assert contrast.auroc is not None


def test_given_findings_that_one_side_does_not_have_then_all_are_named(real: pd.DataFrame) -> None:
    synthetic = synthetic_images(200).assign(labels=lambda rows: rows["labels"] & MASS)
    scores, asked = scored(real["labels"], 6, 1), scored(synthetic["labels"], 6, 2)
    result = judged(real, scores, synthetic, asked, findings=("Edema", "Scoliosis"))
    assert result.unknown_to_judge == ("Mass",)
    assert result.not_requested == ("Edema",)
    assert result.not_in_vocabulary == ("Scoliosis",)
    assert [one.finding for one in result.findings] == ["Edema"]
    assert result.findings[0].synthetic == ()


def test_given_images_of_unknown_view_then_the_judge_is_tried_on_such_images_too(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    unknown = synthetic.assign(view="")
    scores = scored(real["labels"], 6, 1), scored(synthetic["labels"], 6, 2)
    text = "refused within unknown view: 0 images with Edema, 10 are needed"
    contrast = prompts_of(judged(real, scores[0], unknown, scores[1]), "Edema", "pooled")
    assert contrast.refused == f"refused pooled: the judge is {text}"
    result = judged(real.assign(view=""), scores[0], unknown, scores[1])
    assert prompts_of(result, "Edema", "unknown view").auroc is not None
    assert prompts_of(result, "Edema", "pooled").auroc is not None


def test_given_the_view_baseline_then_its_sign_is_learnt_from_training_images(synthetic: pd.DataFrame) -> None:
    """Edema is mostly PA among the training images and mostly AP among those tested: the view misleads."""
    test, train = real_images(500), real_images(300, split="train", seed=6)
    train["view"] = train["view"].map({"AP": "PA", "PA": "AP"})
    both = pd.concat([test, train], ignore_index=True)
    asked = scored(synthetic["labels"], 6, 2)
    alone = trial_of(judged(test, scored(test["labels"], 6, 1), synthetic, asked), "Edema", "pooled").view_only
    misled = trial_of(judged(both, scored(both["labels"], 6, 1), synthetic, asked), "Edema", "pooled").view_only
    assert alone is not None
    assert misled is not None
    assert misled.value == pytest.approx(1 - alone.value)
    assert alone.value > 0.65


def test_given_rows_in_another_order_then_the_result_is_the_same(real: pd.DataFrame, synthetic: pd.DataFrame) -> None:
    scores, asked = scored(real["labels"], 3, 1), scored(synthetic["labels"], 2, 2)
    by = np.random.default_rng(0).permutation(len(synthetic))
    of = np.random.default_rng(0).permutation(len(real))
    expected = judged(real, scores, synthetic, asked)
    assert judged(real.iloc[of], scores[of], synthetic.iloc[by], asked[by]) == expected
    assert judged(real, scores, synthetic, asked, seed=6) != expected


def test_given_histograms_then_they_count_every_image(real: pd.DataFrame, synthetic: pd.DataFrame) -> None:
    result = judged(real, scored(real["labels"], 4, 1), synthetic, scored(synthetic["labels"], 4, 2))
    trial, contrast = trial_of(result, "Edema", "AP"), prompts_of(result, "Edema", "AP")
    assert contrast.histogram is not None
    assert len(trial.histogram.having) == len(contrast.histogram.lacking) == 20
    assert sum(trial.histogram.having) == trial.num_with
    assert sum(contrast.histogram.lacking) == contrast.num_without


def test_given_a_judge_of_broken_weights_then_the_image_is_named(real: pd.DataFrame, synthetic: pd.DataFrame) -> None:
    scores = scored(real["labels"], 4, 1)
    scores[7, 1] = np.nan
    with pytest.raises(UserError, match="no probability to 1 of 500 real images, the first 'test-000007'"):
        judged(real, scores, synthetic, scored(synthetic["labels"], 4, 2))


def test_given_a_patient_in_train_and_held_out_then_the_judge_is_not_tried(
    real: pd.DataFrame, synthetic: pd.DataFrame
) -> None:
    leaked = real.assign(split=["train", *["test"] * (len(real) - 1)], patient_id="p1")
    with pytest.raises(UserError, match="1 patients are in train and in test: p1"):
        judged(leaked, scored(real["labels"], 4, 1), synthetic, scored(synthetic["labels"], 4, 2))


def test_given_a_hundred_thousand_synthetic_images_then_memory_stays_bounded(real: pd.DataFrame) -> None:
    many = synthetic_images(100_000)
    scores, asked = scored(real["labels"], 4, 1), scored(many["labels"], 4, 2)
    tracemalloc.start()
    result = judged(real, scores, many, asked, Faithfulness(num_resamples=100, num_permutations=40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert prompts_of(result, "Edema", "PA").auroc is not None
    assert peak < 400e6, "all resamples at once would be 80 MB per 100, for each of several arrays"

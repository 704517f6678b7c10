"""What a benefit experiment computes from scores: intervals, Holm, the exchange rate; and which images arms have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.evaluation.adjudicated import labelled, read_adjudicated
from cxr_core.evaluation.benefit.bootstrap import Seeds, holm, resampled_aurocs
from cxr_core.evaluation.benefit.cohort import choose_benefit, read_benefit, write_benefit
from cxr_core.evaluation.benefit.exchange import equivalent, exchange_rate
from cxr_core.evaluation.benefit.settings import Benefit
from cxr_core.evaluation.matched import HeldOutImages
from cxr_core.models.training_data import TrainingData
from cxr_core.runs.files import read_json, write_json
from tests.planted import planted_rows, told_series, write_planted

EFFUSION = ("Effusion",)


def some_test(num: int, seed: int = 1) -> HeldOutImages:
    """Half AP, of which 60 % have the first finding and 15 % of PA; the second is had by 30 %."""
    draw = np.random.default_rng(seed)
    views = draw.choice(["AP", "PA"], num)
    labels = np.stack([draw.random(num) < np.where(views == "AP", 0.6, 0.15), draw.random(num) < 0.3], axis=1)
    return HeldOutImages.of(labels, views, np.arange(num) // 2, match_views=True)


def test_given_matched_views_then_the_view_scores_a_half_and_weights_are_those_of_sklearn() -> None:
    test = some_test(300)
    is_ap = test.weights[:, :1] * 0 + (np.random.default_rng(1).choice(["AP", "PA"], 300) == "AP")[:, None]
    noise = np.random.default_rng(2).random((300, 2))
    found = resampled_aurocs({"view": np.repeat(is_ap, 2, 1)[None], "noise": noise[None]}, test, [0, 1], 5, 100)
    assert found["view"][0, :, 0] == pytest.approx([0.5, 0.5, 0.5])
    wanted = [roc_auc_score(test.labels[:, i], noise[:, i], sample_weight=test.weights[:, i]) for i in (0, 1)]
    assert found["noise"][0, :2, 0] == pytest.approx(wanted)
    assert found["noise"][0, 2] == pytest.approx(found["noise"][0, :2].mean(axis=0))


def test_given_few_seeds_then_the_spread_of_their_mean_is_not_too_small() -> None:
    seeds = np.random.default_rng(3).normal(size=5)
    drawn = Seeds(5, 20_000, seed=1).mean(np.repeat(seeds[:, None], 20_001, axis=1))[1]
    assert drawn.std() == pytest.approx(seeds.std(ddof=1) / np.sqrt(5), rel=0.03)


def test_given_one_seed_then_the_interval_is_over_patients_alone() -> None:
    values = np.random.default_rng(4).normal(0.7, 0.05, (1, 1001))
    found = Seeds(1, 1000, seed=1).interval(values)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values[0, 1:], (2.5, 97.5))))


def test_given_paired_arms_then_their_difference_is_surer_than_either() -> None:
    test = some_test(200)
    base = test.labels + np.random.default_rng(5).normal(size=(3, 200, 2))
    better = base + 0.2 * test.labels
    found = resampled_aurocs({"real": base, "more": better}, test, [0, 1], 5, 300)
    seeds = Seeds(3, 300, seed=1)
    change, alone = (seeds.interval(v[:, 0]) for v in (found["more"] - found["real"], found["real"]))
    assert change.low > 0
    assert change.high - change.low < (alone.high - alone.low) / 2
    assert seeds.p_value(found["more"][:, 0] - found["real"][:, 0]) < 0.05


def test_given_a_mean_two_spreads_from_zero_then_p_is_the_normal_one() -> None:
    drawn = np.random.default_rng(6).normal(2.0, 1.0, 4000)
    values = np.concatenate([[2.0], drawn])[None]
    assert Seeds(1, 4000, seed=1).p_value(values) == pytest.approx(2 * norm.sf(2 / drawn.std()))
    assert Seeds(1, 10, seed=1).p_value(np.zeros((1, 11))) == 1.0
    # Resamples that are all alike prove nothing of three patients.
    assert Seeds(1, 10, seed=1).p_value(np.full((1, 11), 0.3), num_patients=3) > 0.2


def test_given_p_values_then_holms_are_those_worked_out_by_hand() -> None:
    # Ordered: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, none below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


NUM = np.array([100, 200, 400, 800])


@pytest.mark.parametrize(
    ("wanted", "number"), [(0.6, 100), (0.65, np.sqrt(100 * 200)), (0.7, 200), (0.9, 800), (0.5, 100), (0.95, 800)]
)
def test_given_a_rising_curve_then_it_is_read_on_a_logarithmic_axis_and_ends_at_its_ends(
    wanted: float, number: float
) -> None:
    assert equivalent(NUM, np.array([0.6, 0.7, 0.8, 0.9]), wanted) == pytest.approx(number)


def test_given_a_curve_that_falls_in_between_then_it_is_made_monotone_and_the_fewest_images_count() -> None:
    assert equivalent(NUM, np.array([0.6, 0.8, 0.7, 0.9]), 0.75) == pytest.approx(200)


def curve(*, slope: float, noise: float = 0.003) -> dict[int, np.ndarray]:
    """AUROC that rises by `slope` with each doubling, of 5 seeds in 200 resamples."""
    draw = np.random.default_rng(8)
    return {int(n): 0.6 + slope * np.log2(n / 100) + noise * draw.normal(size=(5, 201)) for n in NUM}


def test_given_an_arm_as_good_as_half_as_many_real_images_more_then_its_synthetic_ones_are_worth_that() -> None:
    # 200 real and 400 synthetic images score as 400 real ones do: 200 for 400.
    known = curve(slope=0.1)
    found = exchange_rate("replace-50", "macro", (200, 400), known, known[400], Seeds(5, 200, seed=1))
    assert found.rate is not None
    assert found.rate.value == pytest.approx(0.5, abs=0.01)
    assert 0.4 < found.rate.low <= found.rate.value <= found.rate.high < 0.6
    assert (found.bound, found.low_is_bound, found.high_is_bound) == (None, False, False)


def test_given_an_arm_beyond_the_curve_then_the_rate_is_a_bound() -> None:
    known, seeds = curve(slope=0.1), Seeds(5, 200, seed=1)
    above = exchange_rate("add-50", "macro", (800, 400), known, known[800] + 0.2, seeds)
    below = exchange_rate("replace-50", "macro", (400, 400), known, known[100] - 0.2, seeds)
    assert above.rate is not None
    assert below.rate is not None
    assert (above.bound, above.rate.value, above.high_is_bound) == ("at_least", 0.0, True)
    assert (below.bound, below.rate.value, below.low_is_bound) == ("at_most", -0.75, True)


def test_given_a_curve_that_is_flat_within_noise_then_no_rate_is_computed() -> None:
    known = curve(slope=0.0)
    found = exchange_rate("add-50", "Edema", (800, 400), known, known[400], Seeds(5, 200, seed=1))
    assert found.rate is None
    assert str(found.not_computed).startswith("the learning curve is flat within noise: from 100 to 800 real images")
    few = {n: values for n, values in known.items() if n in (100, 800)}
    found = exchange_rate("add-50", "Edema", (800, 400), few, known[400], Seeds(5, 200, seed=1))
    assert found.not_computed == "2 points of the learning curve, 3 are needed"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = [*planted_rows(80), *planted_rows(20, split="test")]
    return write_planted(tmp_path_factory.mktemp("benefit") / "real", rows, size=16)


def made(folder: Path, num: int, learnt: TrainingData | None = None) -> Dataset:
    rows = [dict(row, patient_id="", seed=1) for row in planted_rows(num, split="synthetic")]
    dataset = write_planted(folder, rows, size=16, synthetic=True)
    info = read_json(folder / "dataset.json")
    info["about"]["series"] = told_series(learnt)
    write_json(folder / "dataset.json", info)
    return Dataset.open(dataset.folder)


def test_given_arms_then_smaller_ones_are_whole_patients_of_larger_ones_and_synthetic_ones_stand_for_what_they_replace(
    real: Dataset, tmp_path: Path
) -> None:
    entry = Benefit(
        findings=EFFUSION,
        num_real=60,
        replace_percent=(50,),
        add_percent=(25,),
        pretrain=True,
        learning_curve_percent=(50,),
    )
    cohort = choose_benefit(entry, real, made(tmp_path / "made", 120), seed=3)
    assert cohort.not_run == {}
    images = {arm: cohort.use(arm) for arm in entry.arm_names}
    assert {
        arm: tuple((used["source"] == source).sum() for source in ("real", "synthetic")) for arm, used in images.items()
    } == {
        "real": (60, 0),
        "synthetic": (0, 60),
        "replace-50": (30, 30),
        "add-25": (60, 15),
        "pretrain": (60, 60),
        "real-50": (30, 0),
    }
    ids = {arm: set(used.loc[used["source"] == "real", "image_id"]) for arm, used in images.items()}
    assert ids["replace-50"] == ids["real-50"] < ids["real"] == ids["add-25"]
    patients = real.rows.set_index("image_id")["patient_id"]
    assert not set(patients[list(ids["real-50"])]) & set(patients[list(ids["real"] - ids["real-50"])])
    left = real.rows[real.rows["image_id"].isin(ids["real"] - ids["real-50"])]
    drawn = images["replace-50"].query("source == 'synthetic'")["image_id"]
    like = Dataset.open(tmp_path / "made").rows.set_index("image_id").loc[drawn]
    assert like.value_counts(["labels", "view"]).to_dict() == left.value_counts(["labels", "view"]).to_dict()
    assert set(cohort.num_unlike.values()) == {0}
    (tmp_path / "plan").mkdir()
    write_benefit(tmp_path / "plan", [cohort])
    (again,) = read_benefit(tmp_path / "plan")
    pd.testing.assert_frame_equal(again.use("replace-50")[list(cohort.images)], cohort.use("replace-50"))


def test_given_too_few_synthetic_images_then_the_arm_says_so_and_the_others_are_run(
    real: Dataset, tmp_path: Path
) -> None:
    entry = Benefit(findings=("Effusion", "Hernia"), num_real=60)
    cohort = choose_benefit(entry, real, made(tmp_path / "made", 20), seed=3)
    assert cohort.not_run == {
        "real": "training images with Hernia: 0",
        "synthetic": "synthetic images: 20 of 60",
        "replace-50": "synthetic images: 20 of 30",
    }


def test_given_same_n_then_only_arms_are_run_whose_real_images_the_generator_learnt_from(
    real: Dataset, tmp_path: Path
) -> None:
    from cxr_core.data.latents import rows_to_encode

    encoded = rows_to_encode(real.rows, 30)
    learnt = TrainingData.of(encoded, NIH, real.info.digest, None)
    entry = Benefit(findings=EFFUSION, num_real=60, generator_trained_on="same_n")
    cohort = choose_benefit(entry, real, made(tmp_path / "made", 120, learnt), seed=3)
    assert list(cohort.not_run) == ["synthetic"]
    assert cohort.not_run["synthetic"] == (
        "generator_trained_on: same_n, but the generator learnt from 30 images of this Dataset that are not the arm's "
        "60: set train_images: 60 in its latents stage"
    )
    assert set(cohort.use("replace-50").query("source == 'real'")["image_id"]) == set(encoded["image_id"])
    others = choose_benefit(entry, real, made(tmp_path / "untold", 120), seed=3)
    assert "unknown" in others.not_run["replace-50"]


def test_given_a_table_of_adjudicated_labels_then_it_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image_id,findings\na,Edema|Effusion\nb,\n")
    assert read_adjudicated(path, NIH).to_dict() == {"a": NIH.encode(["Edema", "Effusion"]), "b": 0}
    for text, message in (
        ("image_id\na\n", "there is no column 'findings'; there are 'image_id'"),
        ("image_id,findings\na,\na,Edema\n", "image 'a' has two rows: 2 and 3"),
        ("image_id,findings\na,Oedema\n", r"labels.csv, row 2 \(image 'a'\): unknown finding 'Oedema'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_adjudicated(path, NIH)
    path.write_text("image_id,findings\nb.png,Edema\n")
    with pytest.raises(UserError, match="none of its 1 images is a test image"):
        labelled(path, NIH, pd.Series(["a"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"primary": {"arm": "replace-25"}}, "primary.arm 'replace-25' is none of real, synthetic, replace-50"),
        ({"primary": {"arm": "real"}}, "primary compares real with itself"),
        ({"replace_percent": (50, 50)}, "repeats one"),
        ({"learner": {"steps": 80, "warmup_steps": 50}}, "must be below half of steps"),
    ],
)
def test_given_an_experiment_that_cannot_be_then_it_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Benefit(findings=EFFUSION, **values)

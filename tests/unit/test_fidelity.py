"""The comparisons of fidelity on features with a known answer."""

import json

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.fidelity import measure
from cxr_core.evaluation.metrics import Extractor, FidelityResult
from cxr_core.report.verdicts import comparability, copying_alarm, coverage_words

WIDTH = 4
MODEL = Extractor(
    kind="model", name="tiny", digest="0" * 64, width=WIDTH, size=16, method="bilinear", output="pooler output"
)
VIEWS = {"AP": 0.3, "PA": 0.7}


def images(
    num: int, split: str, *, seed: int, edema: float = 0.5, shift: float = 0.0, only: tuple[str, ...] = ("AP", "PA")
) -> FeatureRows:
    """Gaussian features that depend on label and view; two images a patient; `shift` moves them all."""
    generator = np.random.default_rng(seed)
    ids = [f"{split}{i:05d}" for i in range(num)]
    labels = np.where(generator.random(num) < edema, NIH.bit("Edema"), 0)
    shares = np.array([VIEWS[name] for name in only])
    views = generator.choice(only, num, p=shares / shares.sum())
    patients = ["" if split == "synthetic" else f"{split}{i // 2:05d}" for i in range(num)]
    rows = pd.DataFrame(
        {"image_id": ids, "patient_id": patients, "split": split, "view": views, "labels": labels.astype(np.int64)}
    )
    features = generator.normal(size=(num, WIDTH)) + shift
    features[:, 0] += 2 * (labels > 0)
    features[:, 1] += 2 * (views == "AP")
    return FeatureRows(rows, features.astype(np.float32))


def joined(*parts: FeatureRows) -> FeatureRows:
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    return FeatureRows(rows, np.concatenate([part.features for part in parts]))


def real(num: int = 300) -> FeatureRows:
    return joined(
        images(num, "test", seed=1, edema=0.2),
        images(num // 3, "val", seed=2, edema=0.2),
        images(2 * num, "train", seed=3, edema=0.2),
    )


def found(
    synthetic: FeatureRows, reference: FeatureRows | None = None, *, extractor: Extractor = MODEL
) -> FidelityResult:
    return measure(reference or real(), synthetic, extractor, (64, 32), NIH, num_resamples=60, seed=7)


def test_given_synthetic_images_of_the_same_distribution_they_stand_at_the_floor() -> None:
    result = found(images(600, "synthetic", seed=9))
    beside, floor = result.beside_floor, result.floor
    assert beside.fid is not None
    assert floor.fid is not None
    assert floor.kid is not None
    assert floor.fid.low <= beside.fid.value <= floor.fid.high
    assert floor.kid.low < 0 < floor.kid.high
    assert beside.a.effective == pytest.approx(floor.a.effective, rel=0.03)
    assert beside.b == floor.b
    assert result.headline.fid is not None
    assert result.headline.fid.low <= result.headline.fid.value <= result.headline.fid.high
    assert (result.headline.a.num_images, result.headline.b.num_images, result.headline.b.num_patients) == (
        600,
        400,
        200,
    )
    assert result.headline.b.effective < 400  # the mixes differ, so weights do
    assert result.alarm is False


def test_given_images_that_are_elsewhere_the_distance_is_far_above_the_floor() -> None:
    result = found(images(600, "synthetic", seed=9, shift=1))
    assert result.beside_floor.fid is not None
    assert result.floor.fid is not None
    assert result.floor.kid is not None
    assert result.beside_floor.kid is not None
    assert result.beside_floor.fid.low > result.floor.fid.high
    assert result.beside_floor.kid.low > result.floor.kid.high
    assert result.beside_floor.fid.value == pytest.approx(4, rel=0.3)  # a shift by 1 in 4 features


def test_given_fewer_synthetic_images_than_a_half_the_floor_is_thinned_to_their_number() -> None:
    result = found(images(60, "synthetic", seed=9))
    assert result.floor.a.effective == pytest.approx(60, abs=3)
    assert result.beside_floor.a.effective == pytest.approx(result.floor.a.effective, abs=3)


def test_given_copies_of_training_images_the_alarm_says_so() -> None:
    train = images(400, "train", seed=3, shift=0.8)
    copies = FeatureRows(train.rows.assign(split="synthetic", patient_id=""), train.features)
    result = found(copies, joined(images(400, "test", seed=1), train))
    assert result.alarm is True
    assert "nearer to training patients" in copying_alarm(result)
    assert result.to_train.b.effective == pytest.approx(result.to_held_out.b.effective, rel=0.03)


def test_given_too_few_held_out_images_there_is_no_number_but_the_reason() -> None:
    few = joined(images(7, "test", seed=1), images(600, "train", seed=3))
    result = found(images(600, "synthetic", seed=9), few)
    assert result.headline.fid is None
    assert result.headline.kid is None
    assert result.headline.not_computed is not None
    expected = f"n = {int(result.headline.b.effective)} effective held-out images, 8 are needed (2 x 4 features)"
    assert result.headline.not_computed == expected
    assert result.alarm is None
    assert "not computed: n = " in copying_alarm(result)


def test_given_no_synthetic_image_like_a_held_out_one_nothing_is_compared() -> None:
    result = found(images(100, "synthetic", seed=9, only=("AP",)), images(100, "test", seed=1, only=("PA",)))
    assert result.headline.not_computed == "no combination of labels and view has images on every side"
    assert coverage_words(result.headline.coverage) == "covers 0 % of the request; lacks No Finding AP, Edema AP"


def test_given_cells_that_held_out_images_lack_the_coverage_names_them_with_their_share() -> None:
    synthetic = images(400, "synthetic", seed=9, only=("PA",))
    odd = images(100, "synthetic", seed=10, edema=1.0, only=("AP",))
    odd = FeatureRows(odd.rows.assign(image_id="odd-" + odd.rows["image_id"]), odd.features)
    result = found(
        joined(synthetic, odd), joined(images(300, "test", seed=1, only=("PA",)), images(300, "train", seed=2))
    )
    coverage = result.headline.coverage
    assert coverage_words(coverage) == "covers 80 % of the request; lacks Edema AP"
    assert [(each.cell, each.share) for each in coverage.missing] == [("Edema AP", pytest.approx(0.2))]
    assert result.headline.a.num_images == 400


def test_given_the_same_seed_all_numbers_are_the_same_and_given_rows_in_another_order_too() -> None:
    synthetic, reference = images(200, "synthetic", seed=9), real(150)
    first = found(synthetic, reference)
    assert found(synthetic, reference) == first
    turned = reference.where(np.ones(len(reference.rows), bool))
    back = np.arange(len(turned.rows))[::-1]
    turned = FeatureRows(turned.rows.iloc[back], turned.features[back])
    again = found(synthetic, turned)
    assert again.headline.fid is not None
    assert first.headline.fid is not None
    assert again.headline.fid.value == pytest.approx(first.headline.fid.value)
    assert again.floor.a == first.floor.a


def test_given_our_own_judge_the_result_says_that_other_papers_do_not_compare() -> None:
    judge = MODEL.model_copy(update={"kind": "judge"})
    result = found(images(200, "synthetic", seed=9), extractor=judge)
    assert result.comparable is False
    assert "our own judge" in comparability(result)
    assert found(images(200, "synthetic", seed=9)).comparable is True
    assert (result.resize.real, result.resize.synthetic, result.resize.to) == (64, 32, 16)


def test_given_findings_each_is_compared_with_held_out_images_of_it_and_the_reason_said_where_there_are_too_few() -> (
    None
):
    synthetic = images(600, "synthetic", seed=9, edema=0.5)
    few = images(3, "synthetic", seed=10)
    few = FeatureRows(few.rows.assign(image_id="few-" + few.rows["image_id"], labels=NIH.bit("Hernia")), few.features)
    result = found(joined(synthetic, few))
    each = {entry.finding: entry.distance for entry in result.by_finding}
    assert list(each) == ["Edema", "Hernia", "No Finding"]
    assert each["Edema"].fid is not None
    assert each["Edema"].b.num_images < result.headline.b.num_images
    assert each["Hernia"].not_computed == "no combination of labels and view has images on every side"


def test_given_a_distance_the_deviation_of_subsets_stands_beside_the_interval_of_kid() -> None:
    distance = found(images(600, "synthetic", seed=9)).headline
    assert distance.subsets is not None
    assert distance.kid is not None
    assert (distance.subsets.num, distance.subsets.size) == (100, 200)
    assert distance.subsets.mean == pytest.approx(distance.kid.value, abs=4 * distance.subsets.deviation)


def of_patients(sizes: list[int], split: str, seed: int) -> FeatureRows:
    """Images of one cell, so many of each patient."""
    some = images(sum(sizes), split, seed=seed, edema=0, only=("PA",))
    return FeatureRows(
        some.rows.assign(patient_id=np.repeat([f"{split}{i}" for i in range(len(sizes))], sizes)), some.features
    )


ONE_CELL = images(200, "synthetic", seed=9, edema=0, only=("PA",))


def measured(
    held_out: FeatureRows, train: FeatureRows, synthetic: FeatureRows = ONE_CELL, num: int = 1000
) -> FidelityResult:
    result = measure(joined(held_out, train), synthetic, MODEL, (64, 32), NIH, num_resamples=num, seed=7)
    json.dumps(result.model_dump(mode="json"), allow_nan=False)
    return result


@pytest.mark.filterwarnings("error")
def test_given_four_patients_of_whom_one_has_a_single_image_then_the_distance_has_an_interval() -> None:
    result = measured(of_patients([50, 50, 50, 1], "test", 1), of_patients([50] * 6, "train", 2))
    assert result.headline.fid is not None
    assert result.headline.kid is not None
    assert result.headline.fid.low <= result.headline.fid.value <= result.headline.fid.high
    # The halves have two patients each; of one half, a quarter of the resamples has a single image.
    assert str(result.floor.not_computed).startswith("n = 2 patients of one half of the held-out patients: ")


@pytest.mark.filterwarnings("error")
def test_given_one_held_out_patient_then_no_interval_pretends_that_chance_plays_no_part() -> None:
    result = measured(of_patients([60], "test", 1), of_patients([50] * 6, "train", 2), num=50)
    assert result.headline.fid is None
    assert str(result.headline.not_computed).startswith("n = 1 patient (held-out images)")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num", [0, 1, 2])
@pytest.mark.parametrize("side", ["synthetic", "test", "train"])
def test_given_no_image_or_one_or_two_of_a_side_then_reasons_stand_where_numbers_would(side: str, num: int) -> None:
    sides = {
        "test": of_patients([1] * 60, "test", 1),
        "train": of_patients([1] * 60, "train", 2),
        "synthetic": ONE_CELL,
    }
    sides[side] = sides[side].where(np.arange(len(sides[side].rows)) < num)
    result = measured(sides["test"], sides["train"], sides["synthetic"], num=20)
    assert result.to_train.fid is None
    assert str(result.to_train.not_computed).startswith(("n = ", "no combination"))
    assert result.alarm is None

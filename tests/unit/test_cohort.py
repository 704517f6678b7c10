"""Cohorts of utility experiments: rules, nesting, disjoint patients, and what there is too little of."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.evaluation.cohort import check_findings, choose_cohort, read_cohorts, write_cohorts
from cxr_core.evaluation.settings import Utility
from tests.planted import planted_row, planted_rows, write_planted

BOTH = NIH.encode(["Effusion", "Mass"])


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Real: 60 train images (30 Effusion, of which 10 with Mass), 40 test. Synthetic: 20 images, 10 Effusion."""
    folder = tmp_path_factory.mktemp("cohort")
    train, test = planted_rows(60), planted_rows(40, split="test")
    for row in [row for row in train if row["labels"]][:10]:
        row["labels"] = BOTH
    drawn = [planted_row(f"syn-{i}", split="synthetic", labels=NIH.bit("Effusion") * (i % 2)) for i in range(20)]
    return {
        "real": write_planted(folder / "real", [*train, *test], size=16),
        "synthetic": write_planted(folder / "synthetic", drawn, size=16, synthetic=True),
    }


@pytest.fixture(scope="module")
def confounded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """80 % of Effusion are AP, but a quarter of No Finding: 40 and 120 train images, 40 and 80 test, 20 and 60 made."""
    folder = tmp_path_factory.mktemp("confounded")

    def rows(split: str, num_positive: int, num_negative: int) -> list[dict]:
        return [
            planted_row(
                f"{split}-{i:05d}",
                split=split,
                view="AP" if (i % 5 < 4 if i < num_positive else i % 4 == 0) else "PA",
                labels=NIH.bit("Effusion") * (i < num_positive),
            )
            for i in range(num_positive + num_negative)
        ]

    real = write_planted(folder / "real", [*rows("train", 40, 120), *rows("test", 40, 80)], size=16)
    return {
        "real": real,
        "synthetic": write_planted(folder / "made", rows("synthetic", 20, 60), size=16, synthetic=True),
    }


def entry(**values: object) -> Utility:
    return Utility(**{"finding": "Effusion", "num_images": 40, "num_test": 40, **values})


def test_given_enough_images_every_arm_is_balanced_and_the_half_is_part_of_the_others(datasets: dict) -> None:
    cohort = choose_cohort(entry(), **datasets, seed=0)
    assert cohort.arms == ["real", "mixed", "half", "doubled"]
    sizes = {arm: len(cohort.use(arm)) for arm in cohort.arms}
    assert sizes == {"real": 40, "mixed": 40, "half": 20, "doubled": 40}
    for use in (*cohort.arms, "test"):
        assert cohort.use(use)["label"].mean() == 0.5
    half, real, mixed = (set(cohort.use(arm)["image_id"]) for arm in ("half", "real", "mixed"))
    assert half < real
    assert half < mixed
    assert (cohort.use("mixed")["source"] == "synthetic").sum() == 20
    assert cohort.use("doubled")["image_id"].value_counts().to_dict() == dict.fromkeys(half, 2)


def test_given_splits_training_and_test_come_from_their_own_patients(datasets: dict) -> None:
    cohort = choose_cohort(entry(), **datasets, seed=0)
    test, train = cohort.use("test"), cohort.use("real")
    assert test["image_id"].str.startswith("test-").all()
    assert train["image_id"].str.startswith("train-").all()
    assert not set(test["patient_id"]) & set(train["patient_id"])


def test_given_a_patient_in_both_splits_the_experiment_is_refused(datasets: dict, tmp_path: Path) -> None:
    rows = [dict(row, patient_id="p1") for row in [*planted_rows(60), *planted_rows(40, split="test")]]
    leaky = write_planted(tmp_path / "leaky", rows, size=16)
    with pytest.raises(UserError, match="1 patients are in training and in test: p1"):
        choose_cohort(entry(), leaky, datasets["synthetic"], seed=0)


@pytest.mark.parametrize(("rule", "num"), [("any", 30), ("only", 20)])
def test_given_a_rule_multi_label_images_count_or_do_not(datasets: dict, rule: str, num: int) -> None:
    assert choose_cohort(entry(rule=rule), **datasets, seed=0).available["real train with"] == num


def test_given_too_few_images_only_the_arms_that_need_them_are_not_run(datasets: dict) -> None:
    cohort = choose_cohort(entry(num_images=64), **datasets, seed=0)
    assert cohort.not_run["real"] == (
        "real training images with Effusion: 30 of 32; real training images with No Finding: 30 of 32"
    )
    assert (
        cohort.not_run["mixed"]
        == "synthetic images with Effusion: 10 of 16; synthetic images with No Finding: 10 of 16"
    )
    assert cohort.arms == ["half", "doubled"]


def test_given_too_few_test_images_nothing_is_run(datasets: dict) -> None:
    cohort = choose_cohort(entry(finding="Mass", num_images=4), **datasets, seed=0)
    assert cohort.not_run["test"] == "real test images with Mass: 0 of 20"
    assert cohort.arms == []
    assert cohort.use("test").empty


def views_of(rows: pd.DataFrame, label: int) -> dict[str, int]:
    return rows.loc[rows["label"] == label, "view"].value_counts().to_dict()


@pytest.mark.parametrize("use", ["real", "mixed", "half", "doubled", "test"])
def test_given_a_finding_that_goes_with_the_view_each_positive_has_a_negative_of_its_view(
    confounded: dict, use: str
) -> None:
    matched = choose_cohort(entry(), **confounded, seed=0).use(use)
    assert views_of(matched, 1) == views_of(matched, 0)
    as_they_come = choose_cohort(entry(match_views=False), **confounded, seed=0).use(use)
    assert views_of(as_they_come, 1) == views_of(matched, 1)
    assert views_of(as_they_come, 0) != views_of(matched, 0)


def test_given_too_few_negatives_of_a_view_what_needs_them_is_not_run(confounded: dict) -> None:
    cohort = choose_cohort(entry(num_images=80), **confounded, seed=0)
    assert cohort.not_run["real"] == (
        "real training images with No Finding of view AP: 30 of 32, one for each with Effusion"
    )
    assert "real" not in choose_cohort(entry(num_images=80, match_views=False), **confounded, seed=0).not_run


def test_given_too_few_negatives_of_a_view_there_are_fewer_test_images(confounded: dict) -> None:
    test = choose_cohort(entry(num_images=4, num_test=80), **confounded, seed=0).use("test")
    assert 40 <= len(test) < 80
    assert views_of(test, 1) == views_of(test, 0)
    assert views_of(test, 0)["AP"] == 20, "all that there are"


def listed(image_ids: pd.Series, start: int, stop: int) -> bool:
    """Whether these are the images `start` to `stop` of each class in the planted list."""
    return set(image_ids) == {f"train-{i:05d}" for i in range(2 * start, 2 * stop)}


@pytest.mark.parametrize(("counts", "num_each"), [("in_all", 8), ("per_class", 16)])
def test_given_the_protocol_as_written_images_are_taken_in_listing_order_whoevers_they_are(
    datasets: dict, counts: str, num_each: int
) -> None:
    experiment = entry(protocol="as_written", count_images=counts, num_images=16, num_test=12, min_test=2)
    cohort = choose_cohort(experiment, **datasets, seed=0)
    assert listed(cohort.use("real")["image_id"], 0, num_each)
    assert listed(cohort.use("half")["image_id"], 0, num_each // 2)
    assert listed(cohort.use("test")["image_id"], num_each, num_each + num_each * 12 // 16)
    mixed = cohort.use("mixed")
    assert (mixed["source"] == "synthetic").sum() == num_each
    assert choose_cohort(experiment, **datasets, seed=1).images.equals(cohort.images)


def test_given_the_protocol_as_written_a_patient_may_be_in_training_and_in_test(datasets: dict, tmp_path: Path) -> None:
    rows = [dict(row, patient_id=row["image_id"][-1]) for row in planted_rows(60)]
    leaky = write_planted(tmp_path / "leaky", rows, size=16)
    experiment = entry(protocol="as_written", num_images=20, num_test=20, min_test=2)
    cohort = choose_cohort(experiment, leaky, datasets["synthetic"], seed=0)
    assert set(cohort.use("test")["patient_id"]) & set(cohort.use("real")["patient_id"])


def test_given_the_protocol_as_written_validation_images_are_of_the_training_list_and_test_images_are_not(
    datasets: dict, tmp_path: Path
) -> None:
    rows = [dict(row, split="val" if i < 6 else "train") for i, row in enumerate(planted_rows(60))]
    real = write_planted(tmp_path / "real", [*rows, *planted_rows(40, split="test")], size=16)
    experiment = entry(protocol="as_written", num_images=20, num_test=40)
    assert listed(choose_cohort(experiment, real, datasets["synthetic"], seed=0).use("real")["image_id"], 0, 10)


def test_given_a_training_list_that_is_too_short_the_protocol_as_written_is_not_run(datasets: dict) -> None:
    cohort = choose_cohort(entry(protocol="as_written", num_images=40), **datasets, seed=0)
    assert cohort.not_run["test"] == (
        "real images of the training list, to train and to test, with Effusion: 30 of 40; "
        "real images of the training list, to train and to test, with No Finding: 30 of 40"
    )
    assert cohort.arms == []


def test_given_another_seed_other_images_are_chosen_and_the_same_seed_chooses_the_same(datasets: dict) -> None:
    def chosen(seed: int) -> list[str]:
        return choose_cohort(entry(num_images=16), **datasets, seed=seed).use("real")["image_id"].tolist()

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_given_frozen_cohorts_they_are_read_as_they_were_chosen(datasets: dict, tmp_path: Path) -> None:
    chosen = [choose_cohort(entry(num_images=n), **datasets, seed=0) for n in (40, 64)]
    write_cohorts(tmp_path, chosen)
    for read, was in zip(read_cohorts(tmp_path), chosen, strict=True):
        assert (read.arms, read.not_run, read.available) == (was.arms, was.not_run, was.available)
        for use in (*was.arms, "test"):
            assert read.use(use)[list(was.images.columns)].equals(was.use(use))


def test_given_no_experiments_there_are_no_cohorts(tmp_path: Path) -> None:
    write_cohorts(tmp_path, [])
    assert read_cohorts(tmp_path) == []


def test_given_an_unknown_finding_or_other_vocabularies_the_stage_is_named(datasets: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage 'study': unknown finding 'Edma'"):
        check_findings(["Edma"], **datasets, where="stage 'study'")
    row = planted_row("a", split="synthetic")
    other = write_planted(tmp_path / "other", [row], size=16, findings=type(NIH)(("Effusion",)), synthetic=True)
    with pytest.raises(UserError, match="different findings"):
        check_findings([], datasets["real"], other, where="stage 'study'")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"finding": "No Finding"}, "cannot tell No Finding from No Finding"),
        ({"num_images": 10}, "multiple of 4"),
        ({"num_test": 20, "min_test": 40}, "min_test 40 is above num_test 20"),
        ({"seeds": (1, 1)}, "repeat one"),
    ],
)
def test_given_a_contradicting_experiment_validation_says_so(values: dict, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        entry(**values)

"""Cohorts of utility experiments: rules, nesting, disjoint patients, and what there is too little of."""

from pathlib import Path

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


def entry(**values: object) -> Utility:
    return Utility(**{"finding": "Effusion", "num_images": 40, "num_test": 40, **values})


def test_given_enough_images_every_arm_is_balanced_and_the_half_is_part_of_the_others(datasets: dict) -> None:
    cohort = choose_cohort(entry(), **datasets, seed=0)
    assert cohort.arms == ["real", "mixed", "half"]
    assert {arm: len(cohort.use(arm)) for arm in cohort.arms} == {"real": 40, "mixed": 40, "half": 20}
    for use in (*cohort.arms, "test"):
        assert cohort.use(use)["label"].mean() == 0.5
    half, real, mixed = (set(cohort.use(arm)["image_id"]) for arm in ("half", "real", "mixed"))
    assert half < real
    assert half < mixed
    assert (cohort.use("mixed")["source"] == "synthetic").sum() == 20


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
    assert cohort.arms == ["half"]


def test_given_too_few_test_images_nothing_is_run(datasets: dict) -> None:
    cohort = choose_cohort(entry(finding="Mass", num_images=4), **datasets, seed=0)
    assert cohort.not_run["test"] == "real test images with Mass: 0 of 20"
    assert cohort.arms == []
    assert cohort.use("test").empty


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

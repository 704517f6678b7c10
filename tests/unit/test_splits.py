"""Splits: whole patients only, whatever the share and the order."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_core.data.splits import carve_validation, check_disjoint, choose_patients, hashed_split
from cxr_core.errors import UserError

PATIENTS = st.lists(st.text("abc0123456789", min_size=1, max_size=4), min_size=1, max_size=60)
SHARE = st.floats(0, 0.99)


def table(patients: list[str], test: float = 0.2) -> pd.DataFrame:
    names = pd.Series(patients, dtype=object)
    ids = [f"{i:03d}" for i in range(len(patients))]
    return pd.DataFrame({"image_id": ids, "patient_id": names, "split": hashed_split(names, test=test)})


@given(PATIENTS, SHARE, SHARE)
@settings(max_examples=60, deadline=None)
def test_no_patient_is_ever_in_two_splits(patients: list[str], test: float, validation: float) -> None:
    rows = table(patients, test)
    rows["split"] = carve_validation(rows, validation)
    assert rows.groupby("patient_id")["split"].nunique().max() == 1
    check_disjoint(rows, Path("table.csv"))


@given(PATIENTS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_patients_split_depends_on_nothing_but_the_patient(patients: list[str], random: object) -> None:
    rows = table(patients)
    rows["split"] = carve_validation(rows, 0.3)
    shuffled = [*patients, "another"]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    others = table(shuffled)
    others["split"] = carve_validation(others, 0.3)
    known = dict(zip(others["patient_id"], others["split"], strict=True))
    assert [known[patient] for patient in rows["patient_id"]] == list(rows["split"])


def test_about_the_asked_share_of_training_patients_becomes_validation_and_no_test_patient_does() -> None:
    rows = table([str(i) for i in range(4000)])
    split = carve_validation(rows, 0.1)
    assert (split == "val").sum() / (rows["split"] == "train").sum() == pytest.approx(0.1, abs=0.02)
    assert ((rows["split"] == "test") == (split == "test")).all()


def test_given_validation_in_the_table_or_none_wanted_then_none_is_carved() -> None:
    rows = table([str(i) for i in range(50)])
    assert carve_validation(rows, 0).equals(rows["split"])
    rows.loc[0, "split"] = "val"
    assert carve_validation(rows, 0.5).equals(rows["split"])


def test_a_shared_patient_is_named_with_an_image_of_each_split() -> None:
    rows = pd.DataFrame({"image_id": ["a", "b", "c"], "patient_id": ["p"] * 3, "split": ["train", "train", "test"]})
    with pytest.raises(UserError, match=r"table.csv: patient 'p' is in two splits: a in train, c in test"):
        check_disjoint(rows, Path("table.csv"))


@given(PATIENTS, st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_choosing_takes_whole_patients_and_never_more_images_unless_one_patient_has_them(
    patients: list[str], num_images: int
) -> None:
    rows = table(patients)
    chosen = choose_patients(rows, num_images)
    whole = rows["patient_id"].value_counts()
    taken = chosen["patient_id"].value_counts()
    assert len(taken) > 0
    assert all(whole[patient] == num for patient, num in taken.items())
    assert len(chosen) <= num_images or len(taken) == 1
    assert set(taken.index) <= set(choose_patients(rows, num_images + 1)["patient_id"])
    assert choose_patients(rows, None) is rows

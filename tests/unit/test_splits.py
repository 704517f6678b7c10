"""Splits: whole patients only, whatever the share and the order."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_core.data.csvfile import Csv
from cxr_core.data.settings import Policies
from cxr_core.data.splits import (
    carve_validation,
    check_disjoint,
    choose_patients,
    hashed_split,
    official_split,
    one_person,
    split_patients,
)
from cxr_core.errors import UserError
from tests.radiographs import table_stage

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


def test_given_a_patient_then_its_split_is_the_one_that_versions_before_gave_it() -> None:
    rows = table([*"abcdefghijklmnopqrst"], test=0.3)
    rows["image_id"] = rows["patient_id"]

    def names(found: pd.Series) -> str:
        return "".join(rows.loc[found, "patient_id"])

    assert names(rows["split"] == "test") == "abcdjkopst"
    assert set(rows["split"]) == {"train", "test"}
    assert names(carve_validation(rows.assign(split="train"), 0.3) == "val") == "afhjor"
    assert "".join(choose_patients(rows, 5)["patient_id"]) == "akmno"


def test_given_as_many_images_as_are_wanted_or_fewer_then_all_are_chosen_in_their_order() -> None:
    rows = table([*"cab"])
    assert choose_patients(rows, 3) is rows
    assert choose_patients(rows, 4) is rows


# Who is in two splits


def test_given_several_patients_in_two_splits_then_the_first_is_named_and_they_are_counted() -> None:
    rows = pd.DataFrame(
        {"image_id": [*"abcde"], "patient_id": [*"zzaas"], "split": ["train", "val", "train", "test", "test"]}
    )
    with pytest.raises(UserError) as caught:
        check_disjoint(rows, Path("table.csv"))
    for words in ("patient 'z'", "a in train, b in val (2 such patients)", "all images of a patient into one split"):
        assert words in str(caught.value)
    assert "similar_patients" not in str(caught.value)


def test_given_two_spellings_in_two_splits_then_each_is_quoted_and_the_policy_is_named() -> None:
    rows = pd.DataFrame(
        {"image_id": [*"ab"], "patient_id": ["5", "5"], "spelled": ["5", "5.0"], "split": ["train", "test"]}
    )
    with pytest.raises(UserError) as caught:
        check_disjoint(rows, Path("table.csv"))
    for words in ("a in train (patient '5'), b in test (patient '5.0')", "policies: {similar_patients: keep}"):
        assert words in str(caught.value)


# The official lists


def listed(folder: Path, train: str, test: str) -> tuple[Csv, pd.DataFrame, dict[str, Path]]:
    """A table of three images, as rows of it, and the two lists."""
    (folder / "table.csv").write_text("image\na.png\nb.png\nc.png\n")
    paths = {"train_val": folder / "train.txt", "test": folder / "test.txt"}
    for path, text in zip(paths.values(), (train, test), strict=True):
        path.write_text(text)
    rows = pd.DataFrame({"image_id": [*"abc"], "reference": ["a.png", "b.png", "c.png"], "patient_id": [*"pqr"]})
    return Csv.read(folder / "table.csv"), rows, paths


def test_given_two_lists_then_each_image_is_where_it_is_listed_and_entries_without_one_are_told(tmp_path: Path) -> None:
    csv, rows, paths = listed(tmp_path, "a.png\nc.png\n", "b.png\nz.png\n")
    split, notes = official_split(csv, rows, **paths)
    assert list(split) == ["train", "test", "train"]
    (note,) = notes
    assert "z.png" in note
    assert "test.txt" in note


@pytest.mark.parametrize(("train", "test", "wanted"), [("", "a\nb\nc\n", "test"), ("a\nb\nc\n", "", "train")])
def test_given_an_empty_list_then_all_are_in_the_other(tmp_path: Path, train: str, test: str, wanted: str) -> None:
    csv, rows, paths = listed(tmp_path, train, test)
    assert set(official_split(csv, rows, **paths)[0]) == {wanted}


def test_given_an_image_in_both_lists_then_it_and_the_lists_are_named(tmp_path: Path) -> None:
    csv, rows, paths = listed(tmp_path, "a.png\nb.png\nc.png\n", "c.png\nb.png\n")
    with pytest.raises(UserError) as caught:
        official_split(csv, rows, **paths)
    for words in ("image 'b'", "both", "train.txt and ", "test.txt", "remove it from one"):
        assert words in str(caught.value)


def test_given_an_image_in_no_list_then_its_row_and_both_lists_are_named(tmp_path: Path) -> None:
    csv, rows, paths = listed(tmp_path, "a.png\n", "c.png\n")
    with pytest.raises(UserError) as caught:
        official_split(csv, rows, **paths)
    for words in ("table.csv, row 3", "'b'", "neither train.txt nor test.txt", "add it to one", "remove the row"):
        assert words in str(caught.value)


# One patient, spelled in several ways

SPELLED = pd.DataFrame(
    {"image_id": [*"abcdef"], "patient_id": ["7", "5.0", "5", "8", "5.0", "5"], "row": [2, 3, 4, 5, 6, 7]}
)


def test_given_two_spellings_then_they_are_one_patient_and_the_problem_names_them_and_the_first_row() -> None:
    rows, problems = one_person(SPELLED, Path("table.csv"), Policies())
    assert rows["patient_id"].nunique() == 3
    assert rows["patient_id"][[1, 2, 4, 5]].nunique() == 1
    assert list(rows["spelled"]) == list(SPELLED["patient_id"])
    (problem,) = problems.to_dict("records")
    assert problem == {
        "kind": "similar_patients",
        "image_id": "c",
        "file": "table.csv, row 4",
        "detail": "patients '5' and '5.0' are probably one",
        "action": "one patient to every split",
    }


def test_given_a_policy_that_keeps_them_then_they_stay_two_and_are_only_counted() -> None:
    rows, problems = one_person(SPELLED, Path("table.csv"), Policies(similar_patients="keep"))
    assert list(rows["patient_id"]) == list(rows["spelled"]) == list(SPELLED["patient_id"])
    assert len(problems) == 1
    assert problems["action"].iloc[0] != "one patient to every split"


# All of it


def test_given_a_table_without_a_split_then_patients_are_drawn_validation_is_carved_and_nobody_moves(
    tmp_path: Path,
) -> None:
    names = [f"{i:04d}" for i in range(300)]
    rows = pd.DataFrame({"image_id": names, "patient_id": names, "spelled": names})
    settings = table_stage(tmp_path, "image\n", [], data={"test_share": 0.4}, validation_share=0.2)
    found, boxed = split_patients(rows, pd.DataFrame({"image_id": []}), tmp_path / "table.csv", settings)
    drawn = hashed_split(rows["patient_id"], test=0.4)
    assert list(found["split"] == "test") == list(drawn == "test")
    assert list(found["split"]) == list(carve_validation(rows.assign(split=drawn), 0.2))
    assert (found["split"] == "val").any()
    assert boxed is None


def test_given_a_table_that_parts_a_patient_then_it_is_refused_before_anything_is_carved(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"image_id": [*"ab"], "patient_id": ["p"] * 2, "spelled": ["p"] * 2, "split": ["train", "test"]}
    )
    settings = table_stage(tmp_path, "image\n", [], data={"columns": {"split": "split"}}, validation_share=0.5)
    with pytest.raises(UserError, match=r"table\.csv: patient 'p'"):
        split_patients(rows, pd.DataFrame({"image_id": []}), tmp_path / "table.csv", settings)


def test_given_boxed_test_patients_to_move_then_the_record_names_them_as_the_table_spells_them(tmp_path: Path) -> None:
    names = [f"p{i:02d}" for i in range(40)]
    rows = pd.DataFrame(
        {"image_id": names, "patient_id": names, "spelled": [name.upper() for name in names], "split": "test"}
    )
    boxes = pd.DataFrame({"image_id": names[:20]})
    settings = table_stage(
        tmp_path, "image\n", [], data={"columns": {"split": "split"}}, move_boxed={"train": 0.5, "val": 0.2}
    )
    found, boxed = split_patients(rows, boxes, tmp_path / "table.csv", settings)
    assert boxed is not None
    moved = found.loc[found["split"] != "test", "spelled"]
    assert 0 < len(moved) <= 20
    assert boxed.moved == tuple(sorted(moved))
    assert boxed.num_patients == found["split"][:20].value_counts().to_dict()
    assert set(found["split"][20:]) == {"test"}

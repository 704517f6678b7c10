"""Patients, ages, sexes and views as tables spell them: one meaning, or refused with the row."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_core.data.identity import patient_key, similar
from cxr_core.data.sources import SourcePlan, plan_source
from cxr_core.data.splits import hashed_split
from cxr_core.errors import UserError
from tests.planted import planted_rows, write_planted
from tests.radiographs import table_stage


def planned(folder: Path, rows: list[str], *, more: str = "", policies: dict[str, str] | None = None) -> SourcePlan:
    """`rows`: patient,view and then the columns that `more` names."""
    names = [name for name in more.split(",") if name]
    lines = [f"{i}.png,Cat,{row}" for i, row in enumerate(rows)]
    text = "\n".join([",".join(["image", "labels", "patient", "view", *names]), *lines]) + "\n"
    data: dict[str, Any] = {"columns": {name: name for name in names}}
    files = [f"{i}.png" for i in range(len(rows))]
    return plan_source(table_stage(folder, text, files, data=data, policies=policies or {}))


SPELLINGS = [
    ("5", "5.0"),
    ("4", "0004"),
    ("120000", "1.2e5"),
    ("P1", "p01"),
    ("patient00001", "Patient 1"),
    ("a_b", "a b"),
    ("３", "3"),
    ("Straße", "STRASSE"),
]


@pytest.mark.parametrize("pair", SPELLINGS)
def test_two_spellings_of_a_patient_are_on_one_side_and_named(pair: tuple[str, str], tmp_path: Path) -> None:
    plan = planned(tmp_path, [f"{name},PA" for name in (*pair, *map(str, range(1000, 1020)))])
    rows = plan.rows.set_index("patient_id")["split"]
    assert rows[pair[0]] == rows[pair[1]]
    (detail,) = plan.problems.loc[plan.problems["kind"] == "similar_patients", "detail"]
    assert all(repr(name) in detail for name in pair)
    assert any("patients written in several ways: 1" in note for note in plan.notes)


@given(st.integers(0, 10**9), st.integers(0, 4), st.sampled_from(["{}", "{}.0", "{}.", " {}", "0{}"]))
@settings(max_examples=100, deadline=None)
def test_every_form_of_a_number_has_its_key(number: int, zeros: int, form: str) -> None:
    assert patient_key(form.format("0" * zeros + str(number))) == str(number)


def test_a_number_with_a_fraction_and_a_code_with_a_dot_are_left_apart() -> None:
    assert len({patient_key(text) for text in ("1.1", "1.10", "1.11", "11", "1-1")}) == 5
    assert patient_key("9e999999999") != patient_key("8e999999999")


def test_patients_spelled_in_one_way_are_split_as_ever(tmp_path: Path) -> None:
    names = [f"{i:04d}" for i in range(40)]
    rows = planned(tmp_path, [f"{name},PA" for name in names]).rows.sort_values("patient_id", ignore_index=True)
    wanted = hashed_split(rows["patient_id"], test=0.2)
    assert list(rows["split"].eq("test")) == list(wanted.eq("test"))
    assert similar(rows["patient_id"]) == []


def test_a_split_column_that_parts_two_spellings_is_refused_unless_they_are_different_people(tmp_path: Path) -> None:
    rows = ["5,PA,train", "5.0,PA,test"]
    with pytest.raises(UserError) as caught:
        planned(tmp_path, rows, more="split")
    for text in ("0 in train (patient '5')", "1 in test (patient '5.0')", "similar_patients: keep"):
        assert text in str(caught.value)
    plan = planned(tmp_path, rows, more="split", policies={"similar_patients": "keep"})
    assert list(plan.rows["split"]) == ["train", "test"]
    with pytest.raises(UserError, match="row 2: similar patients"):
        planned(tmp_path, ["5,PA", "5.0,PA"], policies={"similar_patients": "fail"})


def test_a_patient_who_is_barred_from_tests_is_so_by_any_spelling(tmp_path: Path) -> None:
    rows = [
        row | {"patient_id": name} for row, name in zip(planted_rows(3, split="test"), ["5", "0006", "7"], strict=True)
    ]
    real = write_planted(tmp_path / "real", rows)
    assert list(real.barring(frozenset({"5.0", "6"})).rows["patient_id"]) == ["7"]


def test_boxed_patients_are_moved_with_all_their_spellings(tmp_path: Path) -> None:
    lines = [f"{i}.png,Cat,{name},PA,test,Cat,1,2,3,4" for i, name in enumerate(["5", "5.0", *"abcdefgh"])]
    text = "\n".join(["image,labels,patient,view,split,f,x,y,w,h", *lines]) + "\n"
    data = {"columns": {"split": "split", "box": list("fxywh")}}
    settings = table_stage(
        tmp_path, text, [f"{i}.png" for i in range(10)], data=data, move_boxed={"train": 0.9, "val": 0}
    )
    plan = plan_source(settings)
    moved = plan.rows[plan.rows["split"] == "train"]["patient_id"]
    assert plan.boxed is not None
    assert set(plan.boxed.moved) == set(moved)
    assert {"5", "5.0"} <= set(moved) or not {"5", "5.0"} & set(moved)


def test_a_name_in_composed_and_decomposed_letters_is_one_patient(tmp_path: Path) -> None:
    both = ["Müller", unicodedata.normalize("NFD", "Müller")]
    plan = planned(tmp_path, [f"{name},PA" for name in both])
    assert plan.rows["patient_id"].nunique() == 1
    assert plan.problems.empty


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "N/A", "NULL", " ", "<NA>", "unknown"])
def test_a_row_without_a_patient_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table.csv, row 3: no patient"):
        planned(tmp_path, ["1,PA", f"{name},PA"])


AGES = [("057Y", 57), ("57.0", 57), ("012M", 1), ("018m", 1.5), ("008W", 8 * 7 / 365.25), ("3D", 3 / 365.25), ("0", 0)]


def test_ages_as_dicom_has_them_are_years(tmp_path: Path) -> None:
    rows = planned(tmp_path, [f"{i},PA,{text}" for i, (text, _) in enumerate([*AGES, ("nan", 0)])], more="age").rows
    assert list(rows["age"][:-1]) == pytest.approx([years for _, years in AGES])
    assert rows["age"].isna().tolist() == [False] * len(AGES) + [True]


@pytest.mark.parametrize("text", ["<1", ">89", "-5", "57 years", "8WW", "1e2", "inf"])
def test_what_is_no_age_is_refused_with_its_row(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table.csv, row 2: not an age"):
        planned(tmp_path, [f"1,PA,{text}"], more="age")


def test_sexes_are_m_f_or_unknown_and_anything_else_is_refused(tmp_path: Path) -> None:
    given_as = {"male": "M", "Female": "F", "f": "F", "M": "M", "O": "", "U": "", "nan": "", "": "", "Unknown": ""}
    rows = planned(tmp_path, [f"{i},PA,{sex}" for i, sex in enumerate(given_as)], more="sex").rows
    assert list(rows["sex"]) == list(given_as.values())
    with pytest.raises(UserError, match="row 2: not a sex: '1'"):
        planned(tmp_path, ["1,PA,1"], more="sex")


def test_views_are_pa_or_ap_in_any_spelling_and_no_other_view_is_taken_for_one(tmp_path: Path) -> None:
    known = {"pa": "PA", "P.A.": "PA", "POSTERO_ANTERIOR": "PA", "PA view": "PA", "ap": "AP", "antero-posterior": "AP"}
    unknown, others = ["nan", "", "UNKNOWN", "N/A"], ["PA LLD", "AP_horizontal", "lateral", "LL", "L", "COSTAL"]
    views = [*known, *unknown, *others]
    plan = planned(tmp_path, [f"{i},{view}" for i, view in enumerate(views)], policies={"other_view": "keep"})
    by_row = plan.rows.set_index("row")["view"]
    assert [by_row[i + 2] for i in range(len(views))] == [*known.values(), *[""] * (len(unknown) + len(others))]
    named = plan.problems.loc[plan.problems["kind"] == "other_view", "detail"]
    assert [detail.split("'")[1] for detail in named] == others
    assert len(planned(tmp_path, [f"{i},{view}" for i, view in enumerate(views)]).rows) == len(views) - len(others)


def test_a_view_that_the_config_explains_is_that(tmp_path: Path) -> None:
    rows = "image,patient,labels,view\n0.png,1,Cat,AP_horizontal\n1.png,2,Cat,Frontal\n2.png,3,Cat,LL\n"
    data = {"views": {"ap_horizontal": "AP", "FRONTAL": "unknown"}}
    plan = plan_source(table_stage(tmp_path, rows, ["0.png", "1.png", "2.png"], data=data))
    assert list(plan.rows["view"]) == ["AP", ""]

"""Tables, lists and folders: what is read, and how every mistake in them is named."""

import os
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from cxr_core.data.findings import NIH
from cxr_core.data.folders import refuse_folder
from cxr_core.data.settings import PreprocessStage
from cxr_core.data.sources import SourcePlan, plan_source
from cxr_core.errors import UserError
from tests.radiographs import HEADERS, entry, grey, nih_stage, png, stage, write_nih

ROWS = [
    entry("00000001_000.png", "Cardiomegaly|Effusion", age="58", view="AP"),
    entry("00000001_001.png", "No Finding", age="59"),
    entry("00000002_000.png", "Infiltration", age="81", sex="F"),
]


def refused(settings: PreprocessStage) -> str:
    with pytest.raises(UserError) as caught:
        plan_source(settings)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def kinds(plan: SourcePlan) -> dict[str, int]:
    return {str(kind): int(num) for kind, num in plan.problems["kind"].value_counts().items()}


@pytest.mark.parametrize("header", list(HEADERS))
def test_every_edition_of_data_entry_is_read(header: str, tmp_path: Path) -> None:
    boxes = ["00000002_000.png,Infiltrate,512,256,128,64.5"]
    write_nih(tmp_path / "nih", ROWS, header=header, test=["00000002_000.png"], boxes=boxes)
    rows = plan_source(nih_stage(tmp_path / "nih", validation_share=0)).rows
    assert list(rows["image_id"]) == ["00000001_000", "00000001_001", "00000002_000"]
    assert list(rows["patient_id"]) == ["00000001", "00000001", "00000002"]
    assert list(rows["labels"]) == [NIH.encode(["Cardiomegaly", "Effusion"]), 0, NIH.bit("Infiltration")]
    assert list(rows["split"]) == ["train", "train", "test"]
    assert list(rows["view"]) == ["AP", "PA", "PA"]
    assert list(rows["age"]) == [58, 59, 81]
    assert list(rows["sex"]) == ["M", "M", "F"]
    assert list(rows["follow_up"]) == [0, 1, 0]
    assert rows["boxes"][2] == [{"finding": "Infiltration", "x": 512.0, "y": 256.0, "w": 128.0, "h": 64.5}]
    assert rows["prompt"][0] == "frontal chest x-ray, AP view, cardiomegaly, pleural effusion"
    assert Path(rows["file"][0]).is_file()


def test_ages_in_years_months_and_days_are_years_and_the_impossible_are_removed_and_named(tmp_path: Path) -> None:
    ages = ["060Y", "018M", "073D", "411Y", "0", '"57,5"']
    write_nih(tmp_path / "nih", [entry(f"0000000{i}_000.png", age=age) for i, age in enumerate(ages)])
    plan = plan_source(nih_stage(tmp_path / "nih"))
    assert list(plan.rows["age"][:3]) == pytest.approx([60, 1.5, 0.2], abs=1e-3)
    assert pd.isna(plan.rows["age"][3])
    assert list(plan.rows["age"][4:]) == [0, 57.5]
    found = plan.problems[plan.problems["kind"] == "impossible_age"]
    assert list(found["image_id"]) == ["00000003_000"]
    assert found["detail"].item() == "411 years"
    assert found["file"].item().endswith("Data_Entry_2017_v2020.csv, row 5")
    assert len(plan_source(nih_stage(tmp_path / "nih", policies={"impossible_age": "exclude"})).rows) == 5
    assert "impossible age: 411 years" in refused(nih_stage(tmp_path / "nih", policies={"impossible_age": "fail"}))


@pytest.mark.parametrize(
    ("old", "new", "message", "row"),
    [
        ("Cardiomegaly|Effusion", "Cardiomegaly|Effusio", "unknown finding 'Effusio'", 2),
        ("Cardiomegaly|Effusion", "Cardiomegaly|No Finding", "No Finding beside findings", 2),
        ("Cardiomegaly|Effusion", "", "no label", 2),
        ("00000002_000.png", "2.png", "not an image name of NIH's: '2.png'", 4),
        (
            "_000.png,Infiltration,0,2,81",
            "_000.png,Infiltration,0,3,81",
            "another patient than the file name says: '3'",
            4,
        ),
        ("81,F", "old,F", "not an age: 'old'", 4),
        ("81,F", "81,W", "not a sex: 'W'", 4),
        ("Infiltration,0", "Infiltration,first", "not the number of a visit: 'first'", 4),
    ],
)
def test_a_wrong_cell_is_named_by_file_row_and_value(
    old: str, new: str, message: str, row: int, tmp_path: Path
) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    edit(folder / "Data_Entry_2017_v2020.csv", old, new)
    said = refused(nih_stage(folder))
    assert message in said
    assert f"Data_Entry_2017_v2020.csv, row {row}:" in said
    assert "  -> " in said


def test_a_duplicate_row_is_named_with_both_rows(tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", [*ROWS, ROWS[1]])
    assert "image '00000001_001' has two rows: 3 and 5" in refused(nih_stage(tmp_path / "nih"))


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    edit(folder / "Data_Entry_2017_v2020.csv", "Finding Labels", "Labels")
    said = refused(nih_stage(folder))
    assert "there is no column 'Finding Labels'; there are 'Image Index', 'Labels'" in said


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    for name, hint in (("BBox_List_2017.csv", "use_boxes: false"), ("test_list.txt", "check the path")):
        kept = (folder / name).rename(folder / f"{name}.away")
        said = refused(nih_stage(folder))
        assert name in said
        assert hint in said
        kept.rename(folder / name)
    assert "there is no such file" in refused(nih_stage(folder, data={"data_entry": folder / "none.csv"}))
    (folder / "Data_Entry_2017.csv").write_text("")
    assert "2 tables: Data_Entry_2017.csv, Data_Entry_2017_v2020.csv" in refused(nih_stage(folder))
    assert "not a readable CSV" in refused(nih_stage(folder, data={"data_entry": folder / "Data_Entry_2017.csv"}))
    (folder / "Data_Entry_2017.csv").unlink()
    (folder / "Data_Entry_2017_v2020.csv").unlink()
    assert "no Data_Entry_2017*.csv" in refused(nih_stage(folder))


def test_a_table_without_rows_and_a_binary_table_are_refused(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    table = folder / "Data_Entry_2017_v2020.csv"
    table.write_text(HEADERS["v2020"] + "\n")
    assert "the table has no rows" in refused(nih_stage(folder))
    table.write_bytes(b"\x89PNG\xff\xfe,\x00\n1,2\n")
    assert "not a readable CSV" in refused(nih_stage(folder))


def test_a_row_in_no_list_or_in_both_is_an_error(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    edit(folder / "train_val_list.txt", "00000002_000.png", "")
    said = refused(nih_stage(folder))
    assert "row 4: a row without a split: neither train_val_list.txt nor test_list.txt has it: '00000002_000'" in said
    (folder / "test_list.txt").write_text("00000001_000.png\n00000002_000.png")
    assert "image '00000001_000' is in both lists" in refused(nih_stage(folder))


def test_a_patient_in_both_lists_is_an_error_naming_the_images(tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", ROWS, test=["00000001_001.png"])
    said = refused(nih_stage(tmp_path / "nih"))
    assert "patient '00000001' is in two splits: 00000001_000 in train, 00000001_001 in test" in said


def test_a_name_found_twice_is_an_error_naming_both_paths(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    (folder / "images_002").mkdir()
    (folder / "images_002" / "00000001_000.png").write_bytes(png(grey(0)))
    said = refused(nih_stage(folder))
    assert str(folder / "images_001" / "images" / "00000001_000.png") in said
    assert str(folder / "images_002" / "00000001_000.png") in said


def test_empty_and_missing_image_folders_are_errors(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    (tmp_path / "empty").mkdir()
    assert "no PNG file below this folder" in refused(nih_stage(folder, data={"images": [tmp_path / "empty"]}))
    for i in range(2):
        (tmp_path / "empty" / f"{i}.JPG").write_bytes(b"")
    assert "but 2 files with .jpg\n  -> make PNG files" in refused(
        nih_stage(folder, data={"images": [tmp_path / "empty"]})
    )
    assert "there is no such folder" in refused(nih_stage(folder, data={"images": [tmp_path / "none"]}))


def test_given_a_folder_that_cannot_be_listed_then_the_error_of_the_walk_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        os.scandir(tmp_path / "file")
    with pytest.raises(UserError, match=r"file: this folder cannot be listed \(Not a directory\)"):
        refuse_folder(caught.value)


def test_given_a_subfolder_that_cannot_be_listed_then_no_image_list_is_made(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    locked = folder / "images_002"
    locked.mkdir(mode=0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user may read every folder")
    said = refused(nih_stage(folder))
    locked.chmod(0o755)
    assert f"{locked}: this folder cannot be listed" in said


def test_rows_without_an_image_fail_or_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    (folder / "images_001" / "images" / "00000001_001.png").unlink()
    said = refused(nih_stage(folder))
    assert "row 3: 1 of 3 rows have no image; the first is '00000001_001'" in said
    assert "`missing: subset`" in said
    plan = plan_source(nih_stage(folder, data={"missing": "subset"}))
    assert list(plan.rows["image_id"]) == ["00000001_000", "00000002_000"]
    assert kinds(plan) == {"row_without_image": 1}


def test_images_without_a_row_are_named_and_never_used(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS, boxes=["00000001_000.png,Effusion,1,1,9,9"])
    stranger = folder / "images_001" / "images" / "00000009_000.png"
    stranger.write_bytes(png(grey(9)))
    plan = plan_source(nih_stage(folder))
    assert len(plan.rows) == 3
    assert plan.problems.to_dict("records") == [
        {
            "kind": "image_without_row",
            "image_id": "00000009_000",
            "file": str(stranger),
            "detail": "no row in the table",
            "action": "kept",
        }
    ]
    assert str(stranger) in refused(nih_stage(folder, policies={"image_without_row": "fail"}))


def test_listed_images_are_left_out_and_named_with_their_list(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    (folder / "rotated.txt").write_text("00000001_000.png\n")
    lists = {"exclude_lists": [folder / "rotated.txt"]}
    plan = plan_source(nih_stage(folder, data=lists))
    assert list(plan.rows["image_id"]) == ["00000001_001", "00000002_000"]
    listed = plan.problems[plan.problems["kind"] == "listed"]
    assert list(listed["detail"]) == ["named in rotated.txt"]
    assert len(plan_source(nih_stage(folder, data=lists, policies={"listed": "keep"})).rows) == 3
    (folder / "rotated.txt").write_text("wrong.png\n")
    assert "none of its 1 entries is an image of Data_Entry_2017_v2020.csv" in refused(nih_stage(folder, data=lists))


def test_a_lateral_view_is_left_out_or_kept_as_unknown(tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", [*ROWS, entry("00000003_000.png", view="LL")])
    plan = plan_source(nih_stage(tmp_path / "nih"))
    assert len(plan.rows) == 3
    assert kinds(plan)["other_view"] == 1
    kept = plan_source(nih_stage(tmp_path / "nih", policies={"other_view": "keep"}))
    assert kept.rows["view"][3] == ""


def test_given_nothing_left_then_that_is_an_error(tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", [entry("00000003_000.png", view="LL")])
    said = refused(nih_stage(tmp_path / "nih"))
    assert "no image is left of 1: 1 other_view" in said
    assert "row 2: view 'LL'" in said
    assert "`views: {" in said


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("00000001_000.png,Effuson,1,1,9,9", "a box of an unknown finding: 'Effuson'"),
        ("00000001_000.png,No Finding,1,1,9,9", "a box of an unknown finding"),
        ("00000001_000.png,Effusion,1,1,0,9", "not a box's w: '0'"),
        ("00000001_000.png,Effusion,left,1,9,9", "not a box's x: 'left'"),
        ("00000001_000.png,Effusion,1,inf,9,9", "not a box's y: 'inf'"),
    ],
)
def test_a_wrong_box_is_named(box: str, message: str, tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", ROWS, boxes=[box])
    said = refused(nih_stage(tmp_path / "nih"))
    assert message in said
    assert "BBox_List_2017.csv, row 2" in said


def test_a_box_of_an_image_without_a_row_is_named(tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", ROWS, boxes=["00000007_000.png,Effusion,1,1,9,9"])
    assert kinds(plan_source(nih_stage(tmp_path / "nih"))) == {"box_without_row": 1}


def test_without_boxes_no_list_of_boxes_is_needed(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", ROWS)
    (folder / "BBox_List_2017.csv").unlink()
    assert list(plan_source(nih_stage(folder, data={"use_boxes": False})).rows["boxes"]) == [[], [], []]


def test_a_prompt_too_long_is_an_error_of_the_plan(tmp_path: Path) -> None:
    write_nih(tmp_path / "nih", ROWS)
    prompts = {"style": "template", "template": "{findings} " + "radiograph " * 20}
    assert "CLIP reads 77" in refused(nih_stage(tmp_path / "nih", prompts=prompts))


def own_table(folder: Path, text: str, **data: object) -> PreprocessStage:
    folder.mkdir(exist_ok=True)
    (folder / "mine.csv").write_text(text)
    for number, name in enumerate(("a", "b", "c")):
        (folder / f"{name}.png").write_bytes(png(grey(number, 40, 20)))
    given = {"kind": "table", "csv": folder / "mine.csv", "images": [folder], "findings": ["Cat", "Dog"]}
    return stage(given | data)


def test_a_table_of_ones_own_with_all_its_columns_is_read(tmp_path: Path) -> None:
    columns = {"split": "s", "age": "years", "sex": "sex", "follow_up": "visit", "box": ["f", "x", "y", "w", "h"]}
    text = """image,patient,labels,view,s,years,sex,visit,f,x,y,w,h
sub/a.png,p1,Cat;Dog,PA,train,30,F,1,Dog,1,2,3,4
sub/a.png,p1,Cat;Dog,PA,train,30,F,1,Cat,5,6,7,8
b,p2,No Finding,,val,,,2,,,,,
c.png,p3,Dog,AP,test,1,M,3,,,,,
"""
    plan = plan_source(own_table(tmp_path / "t", text, columns=columns, label_separator=";"))
    assert list(plan.rows["image_id"]) == ["a", "b", "c"]
    assert list(plan.rows["labels"]) == [3, 0, 2]
    assert list(plan.rows["split"]) == ["train", "val", "test"]
    assert list(plan.rows["view"]) == ["PA", "", "AP"]
    assert [box["finding"] for box in plan.rows["boxes"][0]] == ["Cat", "Dog"]
    assert plan.findings.names == ("Cat", "Dog")


@pytest.mark.parametrize(
    ("row", "num_cells"), [("b,p2", 2), ("b,p2,Dog", 3), ("b,p2,Dog,PA,", 5), ("b,p2,Dog,PA,train,30", 6)]
)
@pytest.mark.filterwarnings("error")
def test_a_row_shorter_or_longer_than_the_header_is_named(row: str, num_cells: int, tmp_path: Path) -> None:
    said = refused(own_table(tmp_path / "t", f"image,patient,labels,view\na,p1,Cat,PA\n\n{row}\n"))
    assert f"mine.csv, row 4: {num_cells} cells, but the header has 4" in said


def test_empty_lines_and_quoted_commas_are_read_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    text = 'image,patient,labels,view\n\na,p1,"Cat,Dog",PA\n\nb,p2,Fish,PA\n'
    assert "mine.csv, row 5: unknown finding 'Fish'" in refused(own_table(tmp_path / "t", text, label_separator=","))


def test_a_column_there_twice_is_refused_only_where_it_is_read(tmp_path: Path) -> None:
    text = "image,patient,labels,view,note,note\na,p1,Cat,PA,,\n"
    assert list(plan_source(own_table(tmp_path / "t", text)).rows["image_id"]) == ["a"]
    said = refused(own_table(tmp_path / "t", text.replace("note,note", "view,note")))
    assert "2 columns are named 'view'" in said


def test_a_table_without_a_split_column_is_split_by_patient(tmp_path: Path) -> None:
    text = "image,patient,labels,view\na,p1,Cat,PA\nb,p1,Dog,PA\nc,p3,No Finding,\n"
    rows = plan_source(own_table(tmp_path / "t", text)).rows
    assert rows["split"][0] == rows["split"][1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,,Cat,PA,train", "row 3: no patient"),
        ("a,p2,Cat,PA,", "row 3: a row without a split"),
        ("a,p2,Cat,PA,trian", "row 3: not a split: 'trian'"),
        ("a,p2,Fish,PA,train", "row 3: unknown finding 'Fish'"),
        (",p2,Cat,PA,train", "row 3: not a file name: ''"),
        ("c,p3,Cat,PA,train", "image 'c' has two rows: 2 and 3"),
        ("a,p3,Cat,PA,train", "patient 'p3' is in two splits"),
    ],
)
def test_a_wrong_row_of_ones_own_table_is_named(row: str, message: str, tmp_path: Path) -> None:
    text = f"image,patient,labels,view,split\nc,p3,Dog,PA,test\n{row}\n"
    assert message in refused(own_table(tmp_path / "t", text, columns={"split": "split"}))


def test_rows_of_one_image_that_differ_in_more_than_the_box_are_refused(tmp_path: Path) -> None:
    text = "image,patient,labels,view,f,x,y,w,h\na,p1,Cat,PA,Cat,1,2,3,4\na,p1,Dog,PA,Dog,1,2,3,4\n"
    said = refused(own_table(tmp_path / "t", text, columns={"box": ["f", "x", "y", "w", "h"]}))
    assert "row 3: an image whose rows differ in more than the box: 'a'" in said


def test_rows_of_one_image_may_differ_in_what_is_not_read_and_may_say_that_there_is_no_box(tmp_path: Path) -> None:
    text = """image,patient,labels,reader,f,x,y,w,h
a,p1,Cat,R1,Cat,1,2,3,4
a,p1,Cat,R2,Cat,2,2,3,4
b,p2,No Finding,R1,No finding,,,,
b,p2,No Finding,R2,No finding,,,,
"""
    columns = {"view": None, "box": ["f", "x", "y", "w", "h"]}
    plan = plan_source(own_table(tmp_path / "t", text, columns=columns))
    assert list(plan.rows["boxes"].map(len)) == [2, 0]


def test_a_vocabulary_with_no_finding_in_it_is_refused_with_the_config() -> None:
    with pytest.raises(ValidationError, match="No Finding is what an image without findings has"):
        stage({"kind": "table", "csv": "a.csv", "images": ["."], "findings": ["Cat", "No Finding"]})

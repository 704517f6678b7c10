"""Images of a table are joined with files by their paths: never one patient's label with another's pixels."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from cxr_core.data.references import image_ids
from cxr_core.data.settings import PreprocessStage
from cxr_core.data.sources import plan_source
from cxr_core.errors import UserError
from tests.radiographs import table_stage

CHEXPERT = [f"patient0000{patient}/study{study}/view1_frontal" for patient in (1, 2) for study in (1, 2)]


def planned(folder: Path, named: list[str], files: list[str], **data: Any) -> PreprocessStage:
    """A table of images named so. A folder `p...` in a path says whose the image is; others are of a patient each."""
    rows = [f"{image},{_patient(image, number)},Cat,PA" for number, image in enumerate(named)]
    return table_stage(folder, "\n".join(["image,patient,labels,view", *rows]) + "\n", files, data=data)


def _patient(image: str, number: int) -> str:
    folders = [part for part in image.replace("\\", "/").split("/")[:-1] if part.lower().startswith("p")]
    return folders[0] if folders else str(number)


def found(folder: Path, settings: PreprocessStage) -> dict[str, str]:
    """Image id -> path of its file below the folder of files."""
    rows = plan_source(settings).rows
    return {
        row.image_id: Path(row.file).relative_to(folder / "files").as_posix() for row in rows.itertuples(index=False)
    }


@pytest.mark.parametrize(
    ("images", "files", "wanted"),
    [
        (
            ["patient1/a.png", "patient2/a.png"],
            ["patient2/a.png", "patient1/a.png"],
            {"patient1_a": "patient1/a.png", "patient2_a": "patient2/a.png"},
        ),
        (["x/p1/a.png", "x/p2/b.png"], ["y/z/p1/a.png", "y/z/p2/b.png"], {"a": "y/z/p1/a.png", "b": "y/z/p2/b.png"}),
        (["x/p1/a.png"], ["y/p1/a.png"], {"a": "y/p1/a.png"}),
        (["C:\\data\\p1\\a.png", "C:\\data\\p2\\b"], ["p1/a.png", "p2/b.png"], {"a": "p1/a.png", "b": "p2/b.png"}),
        (["/mnt/./p1/../p1//a.png", "/mnt/p2/b.jpg"], ["p1/a.png", "p2/b.png"], {"a": "p1/a.png", "b": "p2/b.png"}),
        (["P1/A.PNG", "p2/b"], ["p1/a.png", "p2/b.png"], {"A": "p1/a.png", "b": "p2/b.png"}),
        (["a.png", "A.png"], ["a.png", "A.png"], {"a": "a.png", "A": "A.png"}),
        (["p1/a.png", "p2/b.png"], ["a.png", "b.png"], {"a": "a.png", "b": "b.png"}),
        (
            ["1.2.840.3", "c.dcm", "d", "e.dcm.png"],
            ["1.2.840.3.png", "c.dcm.png", "d.DCM.png", "e.dcm.png"],
            {"1.2.840.3": "1.2.840.3.png", "c": "c.dcm.png", "d": "d.DCM.png", "e.dcm": "e.dcm.png"},
        ),
        ([unicodedata.normalize("NFD", "Müller/ü.png")], ["Müller/ü.png"], {"ü": "Müller/ü.png"}),
    ],
)
def test_a_row_has_the_file_whose_path_ends_like_its_own(
    images: list[str], files: list[str], wanted: dict[str, str], tmp_path: Path
) -> None:
    got = found(tmp_path, planned(tmp_path, images, files))
    assert {unicodedata.normalize("NFC", name): file for name, file in got.items()} == wanted


@pytest.mark.parametrize("prefix", ["", "train/", "png/v1.0/train/"])
def test_chexperts_files_of_one_name_are_told_apart_by_patient_and_study(prefix: str, tmp_path: Path) -> None:
    images = [f"CheXpert-v1.0-small/train/{path}.jpg" for path in CHEXPERT]
    files = [f"{prefix}{path}.png" for path in reversed(CHEXPERT)]
    got = found(tmp_path, planned(tmp_path, images, files))
    assert got == {path.replace("/", "_"): f"{prefix}{path}.png" for path in CHEXPERT}


@pytest.mark.parametrize(
    ("images", "files"),
    [
        (["patient1/a.png"], ["patient2/a.png"]),
        (["patient1/study1/a.png", "patient2/study2/b.png"], ["patient2/study1/a.png", "patient2/study2/b.png"]),
        (["C/train/p1/s1/v.jpg", "C/train/p2/s1/w.jpg"], ["X/train/p2/s1/v.png", "X/train/p2/s1/w.png"]),
        (["siteA/1.png", "siteA/2.png"], ["siteB/1.png", "siteA/2.png"]),
        (["siteA/1.png"], ["siteB/1.png"]),
    ],
)
def test_a_file_in_folders_that_contradict_the_table_is_nobodys(
    images: list[str], files: list[str], tmp_path: Path
) -> None:
    settings = planned(tmp_path, images, files)
    with pytest.raises(UserError) as caught:
        plan_source(settings)
    assert "table.csv, row 2" in str(caught.value)
    assert str(tmp_path / "files" / files[0]) in str(caught.value)
    if len(images) > 1:
        plan = plan_source(planned(tmp_path, images, files, missing="subset"))
        assert str(tmp_path / "files" / files[0]) not in set(plan.rows["file"])
        absent = plan.problems[plan.problems["kind"] == "row_without_image"]
        assert files[0] in absent["detail"].iloc[0]


def test_folders_that_images_names_tell_patients_apart_too(tmp_path: Path) -> None:
    files = ["patient1/a.png", "patient2/b.png"]
    roots = [tmp_path / "files" / f"patient{i}" for i in (1, 2)]
    settings = planned(tmp_path, ["patient1/a.png", "patient3/b.png"], files, images=roots, missing="subset")
    assert found(tmp_path, settings) == {"a": "patient1/a.png"}


@pytest.mark.parametrize(
    ("images", "files", "named"),
    [
        (["a.png"], ["p1/a.png", "p2/a.png"], "table.csv, row 2"),
        (["p1/a.png"], ["A/p1/a.png", "B/p1/a.png"], "table.csv, row 2"),
        (["AB.png"], ["ab.png", "aB.png"], "table.csv, row 2"),
        (["p1/a.png", "p2/a.png"], ["a.png"], "rows 2 and 3"),
    ],
)
def test_what_remains_ambiguous_is_refused_with_the_row_and_every_candidate(
    images: list[str], files: list[str], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        plan_source(planned(tmp_path, images, files))
    for text in (named, *(str(tmp_path / "files" / file) for file in files)):
        assert text in str(caught.value)


@pytest.mark.parametrize("images", [["p1/a.png", "./p1//a.jpg"], ["a.jpg", "a.png"]])
def test_two_spellings_of_one_path_are_two_rows_of_one_image(images: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has two rows: 2 and 3"):
        plan_source(planned(tmp_path, images, images))


def test_one_file_by_two_paths_is_one_file(tmp_path: Path) -> None:
    settings = planned(tmp_path, ["p1/a.png", "b.png"], ["p1/a.png", "p2/b.png"])
    (tmp_path / "files" / "linked").symlink_to(tmp_path / "files" / "p2")
    plan = plan_source(settings)
    assert set(plan.rows["image_id"]) == {"a", "b"}
    assert plan.problems.empty
    overlapping = settings.data.model_copy(update={"images": (tmp_path / "files", tmp_path / "files" / "p1")})
    assert len(plan_source(settings.model_copy(update={"data": overlapping})).rows) == 2


def test_boxes_find_their_image_by_its_path(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,finding,x,y,w,h\nold/p2/a.jpg,Cat,1,2,3,4\np3/a.png,Cat,1,2,3,4\n")
    images = ["p1/a.png", "p2/a.png"]
    plan = plan_source(planned(tmp_path, images, images, further_boxes=[{"path": boxes}]))
    assert list(map(len, plan.rows["boxes"])) == [0, 1]
    assert list(plan.problems["kind"]) == ["box_without_row"]
    boxes.write_text("image,finding,x,y,w,h\na.jpg,Cat,1,2,3,4\n")
    with pytest.raises(UserError, match=r"boxes.csv: 'a.jpg' may mean 'p1/a' or 'p2/a'"):
        plan_source(planned(tmp_path, images, images, further_boxes=[{"path": boxes}]))


def test_ids_are_names_of_files_each_once_and_those_of_before_where_names_differ() -> None:
    assert image_ids(["x/p1/a", "x/p2/b"]) == ["a", "b"]
    assert image_ids(["x/p1/a", "x/p2/a"]) == ["p1_a", "p2_a"]
    many = [f"x/{folder}/{name}" for folder in ("a_b", "a", "ü" * 120) for name in ("c", "b_c", "ä" * 100)]
    ids = image_ids([*many, "x/a/b_b_c", "x/a_b/b_b_c"])
    assert len(set(ids)) == len(ids)
    assert max(len(name.encode()) for name in ids) <= 251
    assert not any("/" in name for name in ids)
    assert image_ids(["C:/.p 1/a", "D:/p\n2/a"]) == ["C__.p_1_a", "D__p_2_a"]

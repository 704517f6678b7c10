"""Lists of images, whatever wrote them: what they name, and what of them names nothing."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.data.lists import read_list
from cxr_core.data.sources import SourcePlan, plan_source
from cxr_core.errors import UserError
from cxr_core.evaluation.adjudicated import labelled, unknown_ids
from cxr_core.generation.series import position
from tests.planted import planted_rows, write_planted
from tests.radiographs import entry, nih_stage, table_stage, write_nih


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", b"a.png\nb.png\n"),
        ("last line open.txt", b"\xef\xbb\xbfa.png\r\n\r\n b.PNG "),
        ("old mac.txt", b"a.png\rb.png"),
        ("comments.txt", b"# rotated\n\na.png\n  # lateral\nb.png\n"),
        ("columns.txt", b"a.png 0 1 0\nb.png 1 0 0\n"),
        ("tabs.txt", b"a.png\trotated\nb.png\t\n"),
        ("header.csv", b"Image Index,Finding Labels\na.png,Mass|Edema\nb.png,No Finding\n"),
        ("second.csv", b"patient,Image_ID\n1,a.png\n2,b.png\n"),
        ("excel.csv", b'path;"why"\n"a.png";"turned; twice"\nb.png;\n'),
        ("quotes.csv", b'"a.png","x, y"\n"b.png",z\n'),
        ("lines in a cell.csv", b'image,report\na.png,"two\nlines"\n,\nb.png,x\n'),
        ("packed.csv.gz", gzip.compress(b"a.png,1\nb.png,2\n", mtime=0)),
    ],
)
def test_every_form_of_a_list_names_the_same(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert [found.text.lower() for found in read_list(tmp_path / name)] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such"),
        (b"\n# nothing\n", "is empty"),
        (b"image,why\n", "is empty"),
        (b"# bad\nq.png\na.png, b.png\n", "list.csv, row 3: 2 images in one row: a, b"),
        (b"a.png\n\x80\x81", "not a readable"),
        (b'a.png\n"b.png\n', "list.csv, row 2: not a readable list"),
        (gzip.compress(b"a.png\n", mtime=0)[:-6], "end-of-stream"),
    ],
)
def test_a_list_that_is_none_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_list(path)
    assert str(path) in str(caught.value)


def without_listed(folder: Path, text: str, images: tuple[str, ...] = ("p1/a", "p2/a", "p3/b")) -> SourcePlan:
    (folder / "list.csv").write_text(text)
    rows = "".join(f"{image},{number},Cat,PA\n" for number, image in enumerate(images))
    data: dict[str, Any] = {"exclude_lists": [folder / "list.csv"]}
    files = [f"{image}.png" for image in images]
    return plan_source(table_stage(folder, f"image,patient,labels,view\n{rows}", files, data=data))


@pytest.mark.parametrize("text", ["p1/a.png", "/mnt/p1/a.jpg", "P1\\A", "p1_a", '"./p1/a.png",turned'])
def test_an_entry_names_an_image_by_its_path_or_its_id(text: str, tmp_path: Path) -> None:
    assert set(without_listed(tmp_path, text + "\n").rows["image_id"]) == {"p2_a", "p3_b"}


def test_entries_that_name_nothing_or_again_are_counted_and_named_with_their_row(tmp_path: Path) -> None:
    plan = without_listed(tmp_path, "image,why\np1/a.png,x\nq.png,x\n\np1/a.jpg,x\np1/b.png,x\n")
    found = plan.problems.set_index("kind")["file"].groupby(level=0).apply(list).to_dict()
    path = tmp_path / "list.csv"
    assert found["list_entry_without_image"] == [f"{path}, row 3", f"{path}, row 6"]
    assert found["list_entry_twice"] == [f"{path}, row 5"]
    details = plan.problems["detail"].tolist()
    assert any("'p1/b.png'" in detail and "'p3/b'" in detail for detail in details)
    assert any("name no image: 2" in note and "q.png" in note for note in plan.notes)


def test_an_entry_that_may_mean_several_images_is_refused_with_two_of_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list.csv, row 1: 'a.png' may mean 'p1/a' or 'p2/a'"):
        without_listed(tmp_path, "a.png\n")


def test_official_lists_may_have_folders_columns_and_entries_of_images_that_are_not_here(tmp_path: Path) -> None:
    names = [f"0000000{i}_000.png" for i in (1, 2, 3)]
    folder = write_nih(tmp_path / "nih", [entry(name) for name in names])
    (folder / "train_val_list.txt").write_text("images_001/images/00000001_000.PNG 0 1\n00000009_000.png 1 0\n")
    (folder / "test_list.txt").write_text("Image Index,Finding Labels\n00000002_000,Mass\n00000003_000.png,Mass\n")
    plan = plan_source(nih_stage(folder, validation_share=0))
    assert list(plan.rows["split"]) == ["train", "test", "test"]
    (note,) = plan.notes
    assert "train_val_list.txt: 1 of 2 entries" in note
    assert "'00000009_000.png' in row 2" in note


def test_adjudicated_labels_are_those_of_the_image_that_a_row_names_whatever_its_spelling(tmp_path: Path) -> None:
    path, ids = tmp_path / "labels.csv", pd.Series(["p1_s1_v", "00000002_000", "x"])
    path.write_text("Path,labels\nCheXpert/p1/s1/v.jpg,Edema\nimages/00000002_000.PNG,no finding\nq.png,Mass\n")
    assert labelled(path, NIH, ids).to_dict() == {"p1_s1_v": NIH.bit("Edema"), "00000002_000": 0}
    (line,) = unknown_ids(path, NIH, ids)
    assert "1 rows name no image of the Dataset: 'q.png'" in line
    path.write_text("image_id,findings\nx,Edema\nfolder/x.png,Mass\n")
    with pytest.raises(UserError, match=r"'x' and 'folder/x.png' are one image, 'x'"):
        labelled(path, NIH, ids)


def test_an_image_named_on_the_command_line_may_be_a_file_of_an_export(tmp_path: Path) -> None:
    dataset = write_planted(tmp_path / "real", planted_rows(4))
    wanted = dataset.rows["image_id"].iloc[2]
    for text in (wanted, f"{wanted}.png", f"/data/out/{wanted}.PNG"):
        with pytest.raises(UserError, match="is a real one"):  # found, and not one that can be made again
            position(dataset, text)
    with pytest.raises(UserError, match="no image 'x'"):
        position(dataset, "x")

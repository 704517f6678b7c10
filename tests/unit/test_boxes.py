"""Files of bounding boxes in several forms, and the test patients who are moved so that places can be learnt."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cxr_core.data.boxfile import COLUMNS, read_boxes
from cxr_core.data.chestxray14 import read_chestxray14
from cxr_core.data.findings import NIH
from cxr_core.data.positions.split import BoxedSplit, MoveBoxed, move_boxed
from cxr_core.data.settings import BoxFile, ChestXray14Data
from cxr_core.errors import UserError
from cxr_core.evaluation.cohort import choose_cohort
from cxr_core.evaluation.settings import Utility
from cxr_core.models.training_data import TrainingData
from tests.planted import planted_rows, write_planted

MASS = {"image_id": "00000001_000", "finding": "Mass", "x": 100.0, "y": 200.0, "w": 50.0, "h": 60.0}
FILES = {
    "nih.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Mass,100,200,50,60\n",
    "plain.csv": "image,finding,x,y,w,h\n00000001_000.png,Mass,100,200,50,60\n",
    "rsna.csv": "patientId,x,y,width,height,Target\n00000001_000,100,200,50,60,1\n00000002_000,,,,,0\n",
    "chestxdet.json": json.dumps(
        [
            {
                "file_name": "00000001_000.png",
                "syms": ["Tumour", "Fracture"],
                "boxes": [[100, 200, 150, 260], [1, 1, 2, 2]],
            },
            {"file_name": "00000002_000.png", "syms": [], "boxes": []},
        ]
    ),
}
SAYS = {"rsna.csv": {"finding": "Mass"}, "chestxdet.json": {"names": {"Tumour": "Mass", "Fracture": None}}}


def read(folder: Path, name: str, text: str, **says: object) -> pd.DataFrame:
    (folder / name).write_text(text)
    return read_boxes(BoxFile(path=folder / name, **says), NIH)


@pytest.mark.parametrize("name", FILES)
def test_given_a_file_of_any_form_then_its_boxes_come_out_alike(name: str, tmp_path: Path) -> None:
    boxes = read(tmp_path, name, FILES[name], **SAYS.get(name, {}))
    assert list(boxes.columns) == COLUMNS
    assert boxes.to_dict("records") == [MASS]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "id,left,top\n1,2,3\n", "no list of boxes of a form that we know; it has the columns id, left, top"),
        ("b.json", '{"file_name": 1}', "not a list of images with file_name, syms and boxes"),
        ("c.json", FILES["chestxdet.json"], "a box of an unknown finding: 'Tumour'"),
        ("d.csv", FILES["plain.csv"].replace(",50,", ",-5,"), "not a box's w: '-5'"),
    ],
)
def test_given_a_file_that_is_none_then_the_error_says_why(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, text)
    assert words in str(caught.value)
    assert name in str(caught.value)


@pytest.fixture(scope="module")
def nih(nih_data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and boxes of all of ChestX-ray14."""
    table = read_chestxray14(ChestXray14Data(kind="chestxray14", metadata=nih_data / "metadata"))
    return table.rows, table.boxes


def test_given_all_of_chestxray14_then_whole_patients_of_the_726_with_a_box_are_moved(
    nih: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    rows, boxes = nih
    split, record = move_boxed(rows, boxes["image_id"], MoveBoxed())
    print(f"\n{record.num_patients}, {record.sha256}")
    assert sum(record.num_patients.values()) == 726
    assert record.num_patients["train"] / 726 == pytest.approx(0.6, abs=0.05)
    assert rows.assign(split=split).groupby("patient_id")["split"].nunique().max() == 1
    moved = rows["patient_id"].isin(record.moved)
    assert (split[moved] != "test").all()
    assert split[~moved].equals(rows["split"][~moved])


def test_given_the_same_boxed_patients_in_another_order_then_the_split_has_the_same_digest() -> None:
    rows = pd.DataFrame(
        {"image_id": list("abcdef"), "patient_id": list("ppqrst"), "split": ["test"] * 4 + ["train"] * 2}
    )
    boxed = pd.Series(["a", "c", "d", "f"])
    split, record = move_boxed(rows, boxed, MoveBoxed(train=0.5, val=0.4))
    again = move_boxed(rows.iloc[::-1], boxed.iloc[::-1], MoveBoxed(train=0.5, val=0.4))[1]
    assert again == record
    assert set(record.moved) <= {"p", "q", "r"}
    assert list(split[4:]) == ["train", "train"]
    assert move_boxed(rows, boxed[:1], MoveBoxed(train=0.5, val=0.4))[1].sha256 != record.sha256


def test_given_a_generator_that_learnt_from_test_patients_then_none_of_them_is_in_a_utility_test(
    tmp_path: Path,
) -> None:
    rows = planted_rows(40) + planted_rows(40, split="test")
    real = write_planted(tmp_path / "real", rows)
    synthetic = write_planted(tmp_path / "made", planted_rows(40, split="synthetic"), synthetic=True)
    moved = sorted({row["patient_id"] for row in rows if row["split"] == "test"})[:15]
    learnt = _learnt(real.rows, moved)
    entry = Utility(finding="Effusion", num_images=8, num_test=40, min_test=2, match_views=False)
    before, after = (choose_cohort(entry, given, synthetic, 0) for given in (real, real.barring(learnt.barred)))
    assert set(before.use("test")["patient_id"]) & set(moved)
    assert not set(after.use("test")["patient_id"]) & set(moved)
    assert len(after.use("test"))


def _learnt(rows: pd.DataFrame, moved: list[str]) -> TrainingData:
    """Of a model whose base had learnt from these patients, and which itself did not."""
    record = BoxedSplit(sha256="0" * 64, num_patients={"train": len(moved)}, moved=tuple(moved))
    base = TrainingData.of(rows, NIH, "base", None, record)
    return TrainingData.model_validate_json(TrainingData.of(rows, NIH, "last", base).model_dump_json())

"""Real ChestX-ray14 files through the preprocess stage: every oddity known of them is found and named."""

import re
import time
from pathlib import Path

import pandas as pd
import pytest

import jobs.preprocess
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.data.locate import Files, locate
from cxr_core.data.references import image_ids, tidy, without_ending
from cxr_core.data.settings import PreprocessStage
from cxr_core.data.sources import plan_source
from tests.conftest import require
from tests.radiographs import nih_stage, run_stage

ROTATED, LATERAL = "blacklist_rotated_images.csv", "blacklist_non_PA_AP_view.csv"


def real_stage(nih_data: Path, images: str, *, expect_size: int | None, size: int, **data: object) -> PreprocessStage:
    metadata = nih_data / "metadata"
    given = {"images": [nih_data / images], "missing": "subset", "expect_size": expect_size}
    lists = {"exclude_lists": [metadata / ROTATED, metadata / LATERAL]}
    return nih_stage(metadata, data=given | lists | data, size=size)


def metadata_of(nih_data: Path, images: Path, folder: Path) -> Path:
    """NIH's tables and lists with the lines of a folder's images alone: reading all 112,120 takes ten seconds."""
    names = {path.name for path in images.rglob("*.png")}
    folder.mkdir()
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"):
        lines = (nih_data / "metadata" / name).read_text().splitlines()
        first = lines[:1] if name.endswith(".csv") else []
        kept = [line for line in lines[len(first) :] if line.split(",")[0].strip() in names]
        (folder / name).write_text("\n".join([*first, *kept]) + "\n")
    return folder


def listed(nih_data: Path, name: str, images: str) -> set[str]:
    """Image ids that a list names and a folder holds."""
    names = set((nih_data / "metadata" / name).read_text().split())
    return {path.stem for path in (nih_data / images).rglob("*.png") if path.name in names}


def named(problems: pd.DataFrame, kind: str) -> set[str]:
    return set(problems.loc[problems["kind"] == kind, "image_id"])


def test_all_112120_rows_are_planned_in_seconds(nih_data: Path) -> None:
    settings = real_stage(nih_data, "images_128", expect_size=128, size=64)
    start = time.process_time()
    plan = plan_source(settings)
    assert time.process_time() - start < 60  # some seconds; the bound only catches a loop over rows
    assert len(plan.rows) + len(plan.problems) == 112_120


def test_the_facts_of_the_whole_table_are_as_published(nih_data: Path) -> None:
    from cxr_core.data.chestxray14 import read_chestxray14

    table = read_chestxray14(real_stage(nih_data, "images_128", expect_size=128, size=64).data)
    rows = table.rows
    assert (len(rows), rows["patient_id"].nunique()) == (112_120, 30_805)
    assert rows["split"].value_counts().to_dict() == {"train": 86_524, "test": 25_596}
    assert rows["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert (rows["labels"] == 0).sum() == 60_361
    assert {name: int((rows["labels"] & NIH.bit(name) > 0).sum()) for name in ("Effusion", "Edema", "Hernia")} == {
        "Effusion": 13_317,
        "Edema": 2_303,
        "Hernia": 227,
    }
    assert rows["labels"].nunique() == 801  # of 836 cells: some list the same findings in another order
    assert rows["labels"].map(int.bit_count).max() == 9
    assert (len(table.boxes), table.boxes["image_id"].nunique()) == (984, 880)
    assert (rows["age"] < 18).sum() == 5_402


def test_untouched_originals(nih_data: Path, tmp_path: Path) -> None:
    settings = real_stage(nih_data, "images_1024", expect_size=1024, size=512)
    folder, facts, problems = run_stage(settings, tmp_path)
    num_listed = len(listed(nih_data, ROTATED, "images_1024") | listed(nih_data, LATERAL, "images_1024"))
    assert facts["num_images"] == 147 - num_listed
    assert len(named(problems, "rgba")) == 7
    assert {"00019534_000", "00010384_034"} <= named(problems, "nearly_black")
    assert {"00001739_000", "00002022_000"} <= named(problems, "nearly_white")
    assert named(problems, "inverted") == {"00017999_000"}
    assert not named(problems, "few_grey_levels")
    assert facts["problems"]["row_without_image"] == 112_120 - 147
    assert problems["kind"].iloc[-1] == "row_without_image"
    assert len(problems) < 150 + num_listed
    dataset = Dataset.open(folder)
    assert list(dataset.verify()) == []
    assert (dataset.rows["boxes"].str.len() > 0).sum() == 41
    boxes = [dict(box) for boxes in dataset.rows["boxes"] for box in boxes]
    corners = [(box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]) for box in boxes]
    assert min(map(min, corners)) >= 0
    assert max(map(max, corners)) <= 512


def test_a_resized_copy_of_two_thousand_patients(nih_data: Path, tmp_path: Path) -> None:
    settings = real_stage(nih_data, "images_128", expect_size=128, size=64)
    folder, facts, problems = run_stage(settings, tmp_path)
    assert named(problems, "contradicting_duplicates") == {"00001989_004", "00001989_005"}
    assert len(named(problems, "duplicate_pixels")) == 1
    lists = listed(nih_data, ROTATED, "images_128") | listed(nih_data, LATERAL, "images_128")
    assert named(problems, "listed") == lists
    # One negative, and one that lies on its side, two with wide white borders: what docs/images.md says.
    assert named(problems, "inverted") - lists <= {"00002300_026", "00002376_002", "00002180_000", "00003122_004"}
    assert "00002300_026" in named(problems, "inverted")
    assert not named(problems, "few_grey_levels") | named(problems, "flat") | named(problems, "turned")
    assert facts["num_images"] == 7498 - len(lists) - 3
    assert facts["splits"]["test"] == 1343
    assert sum(facts["splits"].values()) == facts["num_images"]
    dataset = Dataset.open(folder)
    assert dataset.rows.groupby("patient_id")["split"].nunique().max() == 1
    assert (dataset.rows["age"] < 18).any()


ODD = ("exact_duplicates", "nonPAAP", "rgba_64_kcr", "rotated")


def test_the_odd_ones(nih_data: Path, tmp_path: Path) -> None:
    settings = real_stage(nih_data, "odd_images", expect_size=None, size=64)
    _, facts, problems = run_stage(settings, tmp_path)
    assert named(problems, "contradicting_duplicates") == {"00001989_004", "00001989_005"}
    assert named(problems, "duplicate_pixels") == {"00000820_016", "00002658_002"}
    assert len(named(problems, "rgba")) == 14
    folders = {path.stem: path.parent.name for path in (nih_data / "odd_images").rglob("*.png")}
    details = problems[problems["kind"] == "listed"]
    for image_id, detail in zip(details["image_id"], details["detail"], strict=True):
        assert detail == f"named in {ROTATED if folders[image_id] == 'rotated' else LATERAL}"
    assert named(problems, "listed") == {name for name, of in folders.items() if of in ("rotated", "nonPAAP")}
    assert facts["num_images"] == 6 - 4 + 14


@pytest.mark.parametrize("name", ODD)
def test_an_odd_folder_without_lists_crashes_nothing(name: str, nih_data: Path, tmp_path: Path) -> None:
    images = nih_data / "odd_images" / name
    data = {"images": [images], "missing": "subset", "expect_size": 128}
    metadata = metadata_of(nih_data, images, tmp_path / "metadata")
    settings = nih_stage(metadata, data=data, policies={"wrong_size": "convert"})
    folder, _, problems = run_stage(settings, tmp_path)
    assert list(Dataset.open(folder).verify()) == []
    assert named(problems, "rgb") | named(problems, "rgba") == {path.stem for path in images.iterdir()}


def test_images_without_a_row_are_named_where_the_table_is_nihs_sample(nih_data: Path) -> None:
    sample = {"data_entry": nih_data / "metadata" / "sample_labels.csv", "exclude_lists": []}
    plan = plan_source(real_stage(nih_data, "images_1024", expect_size=1024, size=64, **sample))
    assert len(plan.rows) + len(named(plan.problems, "image_without_row")) == 147
    assert len(plan.rows) + len(named(plan.problems, "row_without_image")) == 5_606
    assert named(plan.problems, "impossible_age") <= set(plan.rows["image_id"])


def test_given_the_images_at_hand_then_plan_warns_of_captions_that_few_training_patients_have(nih_data: Path) -> None:
    (line,) = jobs.preprocess.estimate(real_stage(nih_data, "images_128", expect_size=128, size=64), {}).notes
    told = re.match(r"(\d+) of (\d+) captions are held by at most 5 training patients", line)
    assert told
    few, every = map(int, told.groups())
    assert every > few > every / 2


def test_chexperts_files_of_one_name_are_each_rows_own_in_time_that_grows_with_their_number(nih_data: Path) -> None:
    path = nih_data.parent / "other_sets" / "chexpert_train.csv.gz"
    require("data", path.is_file(), f"no CheXpert table at {path}")
    paths = pd.read_csv(path, usecols=["Path"], nrows=60_000)["Path"]
    patients = paths.str.split("/").str[2]
    rows = pd.DataFrame({"reference": paths.map(tidy), "patient_id": patients, "row": paths.index + 2})
    files = Files()
    for name in paths[::-1]:
        files.add(f"/data/png/{name.partition('/')[2].removesuffix('.jpg')}.png", "/data")
    start = time.process_time()
    located = locate(rows, files, "train.csv")
    other = locate(rows, Files([name.replace("patient", "case") for name in files.paths], files.below), "train.csv")
    assert time.process_time() - start < 60  # some seconds; a loop over files of one name takes many minutes
    ours = located.files.str.removeprefix("/data/png/").str.removesuffix(".png")
    assert list(ours) == list(paths.str.partition("/")[2].str.removesuffix(".jpg"))
    assert list(located.strangers) == []
    assert other.files.isna().all()
    ids = image_ids([without_ending(name) for name in rows["reference"]])
    assert ids[0] == "patient00001_study1_view1_frontal"
    assert len(set(ids)) == len(ids)

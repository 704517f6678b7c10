"""Exports keep types: what Hugging Face's `datasets`, pandas and our own reader find is what the Dataset says."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cxr_core.data.chestxray14 import read_chestxray14
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.settings import ChestXray14Data
from cxr_core.errors import UserError
from cxr_core.export.browse import write_page
from cxr_core.export.write import export
from tests.planted import planted_box, planted_row, write_planted

LOOK_LIKE_OTHERS = ("00000100", "1e5", "007", "true", "nan", "NULL", "None", "1_000", "-0", "0x1F", "2020-01-01", "1,5")
"""Ids that a reader of CSV files takes for numbers, dates, truth or nothing."""
ODD_NAMES = ("__dunder", "a.b", "a b", "Müller_1", "x[1]", "q?*", "a::b", "50%", "#1", 'quo"te', "x-test-1")
"""Ids that are odd names of files."""
LONG = ("x" * 251, "ü" * 120)


def odd_rows() -> list[dict[str, Any]]:
    """Ids of all kinds in three splits, of which two have no age, no view and no sex; boxes of the last image alone."""
    ids = sorted((*LOOK_LIKE_OTHERS, *ODD_NAMES, *LONG))
    bare = {"age": math.nan, "view": "", "sex": ""}
    rows = [planted_row(image_id, patient_id=f"{i:04d}", age=0.5) for i, image_id in enumerate(ids)]
    rows[3] |= bare | {"split": "val"}
    rows[4] |= bare | {"split": "test", "follow_up": 3}
    rows[-1] |= {"labels": NIH.bit("Effusion")}
    rows[-1] |= {"boxes": [planted_box(rows[-1], 32)]}
    return rows


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_planted(tmp_path_factory.mktemp("odd") / "real", odd_rows())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`load_dataset` without a network and with a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    return lambda form, **where: load_dataset(form, cache_dir=str(tmp_path / "cache"), **where)


def check_images(dataset: Dataset, found: dict[str, dict[str, Any]], picture: str) -> None:
    assert sorted(found) == sorted(dataset.rows["image_id"])
    for row in dataset.rows.itertuples():
        assert np.array_equal(np.asarray(found[row.image_id][picture]), dataset.image(row))


def test_given_odd_ids_and_empty_columns_then_an_image_folder_says_what_the_dataset_says(
    odd: Dataset, hub: Any, tmp_path: Path
) -> None:
    export(odd, tmp_path / "out", "imagefolder", internal=True)
    read = hub("imagefolder", data_dir=str(tmp_path / "out"))
    assert sorted(read) == ["test", "train", "validation"]
    assert read["train"].features == read["validation"].features == read["test"].features
    found = {one["image_id"]: one for part in read.values() for one in part}
    check_images(odd, found, "image")
    for row in odd.rows.itertuples():
        one = found[row.image_id]
        assert one["age"] == (None if math.isnan(row.age) else row.age)
        for name in ("patient_id", "split", "view", "sex", "follow_up", "prompt", "generation"):
            assert one[name] == getattr(row, name), name
        assert json.loads(one["boxes"]) == [dict(box) for box in row.boxes]
        assert (one["seed"], one["synthetic"]) == (None, False)
        assert [name for name in NIH.names if one[name]] == [n for n in NIH.decode(row.labels) if n != "No Finding"]


def test_given_boxes_after_many_images_without_one_then_shards_are_read_with_equal_values(
    odd: Dataset, hub: Any
) -> None:
    tars = str(odd.folder / "shards" / "*.tar")
    found = {one["json"]["image_id"]: one | one["json"] for one in hub("webdataset", data_files=tars, split="train")}
    check_images(odd, found, "png")
    for row in odd.rows.itertuples():
        one = found[row.image_id]
        assert json.loads(one["boxes"]) == [dict(box) for box in row.boxes]
        assert (one["patient_id"], one["labels"], one["view"]) == (row.patient_id, row.labels, row.view)
        assert tuple(one["findings"]) == NIH.decode(row.labels)


def test_given_shards_by_split_then_they_hold_what_the_index_does_and_no_left_out_duplicate(
    odd: Dataset, hub: Any, tmp_path: Path
) -> None:
    left_out = odd.barring(frozenset(odd.of_split("test")["patient_id"]))
    assert len(left_out.rows) == len(odd.rows) - 1
    export(left_out, tmp_path / "fewer", "webdataset", internal=True)
    assert sorted(path.name for path in (tmp_path / "fewer").glob("*.tar")) == [
        "train-00000.tar",
        "validation-00000.tar",
    ]
    export(odd, tmp_path / "out", "webdataset", internal=True)
    read = hub("webdataset", data_dir=str(tmp_path / "out"))
    assert {name: len(part) for name, part in read.items()} == {
        "train": len(odd.of_split("train")),
        "validation": 1,
        "test": 1,
    }
    assert read["train"].features == read["validation"].features == read["test"].features
    check_images(odd, {one["json"]["image_id"]: one for part in read.values() for one in part}, "png")


def test_given_records_of_generation_that_differ_then_shards_are_read_with_equal_values(
    hub: Any, tmp_path: Path
) -> None:
    made = [{"model": "a" * 64}] * 6 + [{"model": "a" * 64, "gate": {"passed": True, "margin": 0.25}}]
    rows = [
        planted_row(f"syn-{i}", patient_id="", split="synthetic", seed=2**62 + i, generation=json.dumps(one))
        for i, one in enumerate(made)
    ]
    dataset = write_planted(tmp_path / "made", rows, synthetic=True)
    read = hub("webdataset", data_files=str(dataset.folder / "shards" / "*.tar"), split="train")
    assert [json.loads(one["json"]["generation"]) for one in read] == made
    assert [one["json"]["seed"] for one in read] == [2**62 + i for i in range(7)]
    assert all(one["json"]["synthetic"] for one in read)


@pytest.mark.parametrize("split", ["test", "synthetic"])
def test_given_one_image_of_one_split_without_a_label_then_it_is_read(split: str, hub: Any, tmp_path: Path) -> None:
    dataset = write_planted(tmp_path / "one", [planted_row("1", split=split, age=math.nan, view="", sex="")])
    export(dataset, tmp_path / "out", "imagefolder", internal=True)
    read = hub("imagefolder", data_dir=str(tmp_path / "out"))
    assert {name: part["image_id"] for name, part in read.items()} == {"test" if split == "test" else "train": ["1"]}


def test_given_findings_called_like_our_columns_then_both_are_there(hub: Any, tmp_path: Path) -> None:
    findings = Findings(("split", "image", "Mass"))
    dataset = write_planted(tmp_path / "own", [planted_row("a", labels=1)], findings=findings)
    export(dataset, tmp_path / "out", "imagefolder", internal=True)
    (one,) = hub("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    assert (one["split"], one["split (finding)"], one["image (finding)"], one["Mass"]) == ("train", 1, 0, 0)


def export_as_nih(folder: Path, rows: list[dict[str, Any]], **given: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The Dataset's rows in their order, as our own reader finds them in the export, and image_ids.parquet."""
    dataset = write_planted(folder / "data", rows, **given)
    export(dataset, folder / "out", "nih", internal=True)
    read = read_chestxray14(ChestXray14Data(kind="chestxray14", metadata=folder / "out"))
    told = pq.read_table(folder / "out" / "image_ids.parquet").to_pandas()
    assert list(told["image_id"]) == list(dataset.rows["image_id"])
    names = told["Image Index"].str.removesuffix(".png")
    return read.rows.set_index("image_id").loc[names].reset_index(), told


@pytest.mark.parametrize(
    ("of", "numbers"),
    [
        ({"00000001_000": "A", "00000001_001": "B", "00000002_000": "A"}, [1, 2, 1]),
        ({"00000001_000": "1", "00000001_001": "01"}, [1, 2]),
        ({"a": "4", "b": "0004", "c": "4"}, [1, 2, 1]),
        ({"a": "12", "b": "5", "c": "12"}, [12, 5, 12]),
        ({"a": "", "b": "a", "c": ""}, [1, 2, 3]),
        ({"a": "p1", "b": "P1", "c": "123456789"}, [1, 2, 3]),
        ({"00000007_000": "00000007", "00000007_012": "00000007"}, [7, 7]),
    ],
)
def test_given_patients_of_any_name_then_nihs_layout_neither_merges_nor_splits_them(
    of: dict[str, str], numbers: list[int], tmp_path: Path
) -> None:
    read, told = export_as_nih(tmp_path, [planted_row(name, patient_id=patient) for name, patient in of.items()])
    assert list(read["patient_id"].astype(int)) == numbers
    assert list(told["patient_id"]) == list(of.values())
    if numbers == [7, 7]:
        assert list(read["image_id"]) == list(of)


def test_given_ages_in_months_then_nihs_layout_keeps_them_for_us_and_for_pandas(tmp_path: Path) -> None:
    ages = [7 / 12, 1e-5, 57.0, math.nan]
    rows = [planted_row(f"{i}", age=age, view="", sex="", follow_up=i) for i, age in enumerate(ages)]
    read, _ = export_as_nih(tmp_path, rows)
    assert list(read["age"])[:3] == ages[:3]
    assert math.isnan(read["age"][3])
    assert list(read["follow_up"]) == [0, 1, 2, 3]
    table = pd.read_csv(tmp_path / "out" / "Data_Entry_2017.csv")
    assert list(table["Patient Age"] * 1.0)[:3] == ages[:3]


def test_given_a_finding_or_a_box_outside_the_14_then_nihs_layout_refuses_it(tmp_path: Path) -> None:
    findings = Findings(("Mass", "Rib fracture"))
    labelled = [planted_row("a", labels=2), planted_row("b", labels=2), planted_row("c", labels=1)]
    boxed = [planted_row("a", boxes=[planted_box(planted_row("a"), 32, "Rib fracture")])]
    for number, (rows, num) in enumerate(((labelled, 2), (boxed, 1))):
        dataset = write_planted(tmp_path / f"{number}", rows, findings=findings)
        with pytest.raises(UserError) as caught:
            export(dataset, tmp_path / "out", "nih", internal=True)
        assert caught.value.what.startswith(f"{num} images have 'Rib fracture'")
        assert "--as imagefolder" in caught.value.hint
    assert not (tmp_path / ".out.partial").exists()
    export_as_nih(tmp_path / "unused", [planted_row("a", labels=1)], findings=findings)


def test_given_more_images_of_a_patient_than_nihs_names_count_then_he_is_named(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    rows = [planted_row(f"{i:04d}", patient_id="p", pixels=pixels) for i in range(1001)]
    with pytest.raises(UserError, match="patient 'p' has 1,001 images, but NIH's names count to 1,000"):
        export_as_nih(tmp_path, rows, size=16)


@pytest.mark.parametrize("form", ["imagefolder", "webdataset", "nih", "dicom", "browse"])
def test_given_a_dataset_of_an_older_version_then_no_exported_byte_names_a_path_of_its_machine(
    form: str, tmp_path: Path
) -> None:
    secret = [str(tmp_path), str(Path.home()), "/data/secret"]
    source = {"kind": "table", "csv": "/data/secret/a.csv", "images": ["/data/secret"], "further_boxes": []}
    about = {
        "source": source,
        "prompts": {"style": "clinical", "tokenizer": f"{tmp_path}/tokenizer"},
        **{"dtype": "fp32", "batch_size": 4, "series": []},
    }
    made = '{"model":"abc"}'
    rows = [planted_row("a", patient_id="", split="synthetic", seed=1, generation=made)]
    for synthetic in (False, True):
        if form == "dicom" and not synthetic:
            continue
        dataset = write_planted(tmp_path / f"data{synthetic}", rows, synthetic=synthetic, about=about)
        out = tmp_path / f"out{synthetic}"
        if form == "browse":
            write_page(dataset, out)
        else:
            export(dataset, out, form, internal=not synthetic)
        files = [path for path in out.rglob("*") if path.is_file()]
        assert len(files) > 1
        found = [(path.name, word) for path in files for word in secret if word.encode() in path.read_bytes()]
        assert not found


def test_the_pages_example_opens_an_export(
    odd: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any
) -> None:
    page = Path(__file__).parents[2] / "docs" / "datasets.md"
    example = re.search(r"```python\n(from datasets.*?)```", page.read_text(), re.DOTALL)
    assert example
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    export(odd, Path("out"), "imagefolder", internal=True)
    found: dict[str, Any] = {}
    exec(example[1], found)
    assert found["one"]["image_id"] == odd.of_split("train")["image_id"].iloc[0]

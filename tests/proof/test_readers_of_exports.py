"""Exports opened by the libraries that others use; `make proof TARGET=readers_of_exports`, minutes.

torchxrayvision needs torchvision, which does not fit the environment of this project: it gets one of its own by pip.
"""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.export.write import export
from tests.planted import planted_box, planted_row, write_planted

pytestmark = pytest.mark.proof

READER = Path(__file__).with_name("xrv_reader.py")
SIZE = 64


@pytest.fixture(scope="module")
def python_of_xrv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with torchxrayvision 1.5.7."""
    home = tmp_path_factory.mktemp("xrv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    pip = [home / "bin" / "pip", "install", "--quiet", "torchxrayvision==1.5.7"]
    subprocess.run(pip, check=True, capture_output=True)
    return home / "bin" / "python"


def real(folder: Path) -> Dataset:
    """Patients that are no numbers, ages in months and unknown, views and sexes that are not told, boxes."""
    labels = [0, NIH.encode(["Effusion", "Mass"]), NIH.bit("Infiltration"), NIH.bit("Pleural_Thickening"), 0, 0]
    ages = [7 / 12, math.nan, 57.0, 0.25, math.nan, 101.0]
    rows = [
        planted_row(
            f"{i:03d}e5",
            patient_id=("4", "0004", "p", "P", "p", "nan")[i],
            split=("train", "train", "val", "test", "val", "train")[i],
            age=ages[i],
            sex=("M", "F", "", "F", "", "M")[i],
            view=("PA", "AP", "", "PA", "AP", "PA")[i],
            labels=labels[i],
        )
        for i in range(6)
    ]
    for i, finding in ((1, "Mass"), (2, "Infiltration")):
        rows[i]["boxes"] = [planted_box(rows[i], SIZE, finding)]
    return write_planted(folder, rows, size=SIZE)


def synthetic(folder: Path) -> Dataset:
    bare = {"patient_id": "", "split": "synthetic", "age": math.nan, "sex": ""}
    rows = [
        planted_row(f"syn-{i:08d}", **bare, labels=1 << i, view="AP", seed=2**62 + i, generation=f'{{"steps":{i}}}')
        for i in range(14)
    ]
    about = {"dtype": "fp32", "batch_size": 4}
    return write_planted(folder, rows, size=SIZE, synthetic=True, about=about)


@pytest.mark.parametrize("make", [real, synthetic])
def test_torchxrayvision_reads_nihs_layout_with_equal_values(make: Any, python_of_xrv: Path, tmp_path: Path) -> None:
    dataset = make(tmp_path / "data")
    export(dataset, tmp_path / "out", "nih", internal=make is real)
    done = subprocess.run([python_of_xrv, READER, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout.splitlines()[-1])
    told = pq.read_table(tmp_path / "out" / "image_ids.parquet").to_pandas().set_index("Image Index")
    found = {told.loc[one["name"], "image_id"]: one for one in read["images"]}
    assert sorted(found) == list(dataset.rows["image_id"])
    for row in dataset.rows.itertuples():
        one = found[row.image_id]
        assert one["age"] == (None if math.isnan(row.age) else row.age)
        assert (one["sex"], one["view"]) == (row.sex, row.view or "UNKNOWN")
        assert set(one["findings"] or ["No Finding"]) == set(NIH.decode(row.labels))
        assert one["pixels"] == hashlib.sha256(dataset.image(row).tobytes()).hexdigest()
        assert one["masks"] == {box["finding"]: int(box["w"] * box["h"]) for box in row.boxes}
    groups = dataset.rows["patient_id"].where(dataset.rows["patient_id"] != "", dataset.rows["image_id"])
    pairs = {(found[i]["patient"], patient) for i, patient in zip(dataset.rows["image_id"], groups, strict=True)}
    assert len(pairs) == groups.nunique() == len({number for number, _ in pairs})
    print(f"\ntorchxrayvision {read['version']}: {len(found)} {make.__name__} images of {len(pairs)} patients: equal")


@pytest.mark.parametrize("make", [real, synthetic])
def test_datasets_reads_image_folder_and_shards_with_equal_values(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    import datasets

    dataset = make(tmp_path / "data")
    export(dataset, tmp_path / "out", "imagefolder", internal=make is real)
    cache = str(tmp_path / "cache")
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=cache)
    tars = datasets.load_dataset("webdataset", data_files=str(dataset.folder / "shards" / "*.tar"), cache_dir=cache)
    rows = dataset.rows.set_index("image_id")
    for one in (*(one for part in folder.values() for one in part), *(one["json"] for one in tars["train"])):
        row = rows.loc[one["image_id"]]
        assert (one["patient_id"], one["view"], one["prompt"]) == (row["patient_id"], row["view"], row["prompt"])
        assert json.loads(one["boxes"]) == [dict(box) for box in row["boxes"]]
        assert one["seed"] == (int(row["seed"]) if make is synthetic else None)
    assert sum(map(len, folder.values())) == len(tars["train"]) == len(rows)
    print(f"\ndatasets {datasets.__version__}: {len(rows)} {make.__name__} images as a folder and as shards: equal")

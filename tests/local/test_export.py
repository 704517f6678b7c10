"""`cxr data export`, read by programs that are not ours, and `cxr data reproduce`."""

import getpass
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from cxr_core.data.chestxray14 import read_chestxray14
from cxr_core.data.dataset import Dataset
from cxr_core.data.png import SYNTHETIC
from cxr_core.data.settings import ChestXray14Data
from cxr_core.errors import UserError
from cxr_core.export.write import export
from tests.conftest import require
from tests.pipeline import cxr


@pytest.fixture(scope="module")
def synthetic(undisturbed: Path) -> Dataset:
    return Dataset.open(undisturbed / "nano" / "synthetic")


@pytest.fixture(scope="module")
def real(undisturbed: Path) -> Dataset:
    return Dataset.open(undisturbed / "nano" / "real")


def labels(dataset: Dataset, bits: int) -> str:
    return "|".join(dataset.findings.decode(bits))


def test_an_image_folder_is_read_by_hugging_faces_datasets(
    synthetic: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = cxr("data", "export", synthetic.folder, tmp_path / "out", "--as", "imagefolder")
    assert done.returncode == 0, done.stderr
    from datasets import load_dataset

    read = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(read) == synthetic.info.num_images
    rows = synthetic.rows.set_index("image_id")
    for example in read:
        row = rows.loc[example["image_id"]].copy()
        row["image_id"] = example["image_id"]
        assert np.array_equal(np.asarray(example["image"]), synthetic.image(row))
        assert (example["labels"], example["prompt"]) == (labels(synthetic, row["labels"]), row["prompt"])
        assert (example["view"], example["seed"], example["synthetic"]) == (row["view"], row["seed"], True)
        assert [name for name in synthetic.findings.names if example[name]] == [
            name for name in example["labels"].split("|") if name != "No Finding"
        ]


def test_real_images_keep_their_splits_in_an_image_folder(real: Dataset, tmp_path: Path) -> None:
    export(real, tmp_path / "out", "imagefolder", internal=True)
    for split, folder in (("train", "train"), ("val", "validation"), ("test", "test")):
        table = pd.read_parquet(tmp_path / "out" / folder / "metadata.parquet")
        rows = real.of_split(split)
        assert list(table["image_id"]) == list(rows["image_id"])
        assert list(table["patient_id"]) == list(rows["patient_id"])
        for name, row in zip(table["file_name"], rows.itertuples(), strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / folder / name)), real.image(row))
    assert "Procedural phantoms" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("form", ["imagefolder", "nih"])
def test_no_exported_byte_names_the_run_the_home_or_the_user(
    form: str, synthetic: Dataset, real: Dataset, tmp_path: Path
) -> None:
    secret = [str(synthetic.folder.parent), str(Path.home()), f"/{getpass.getuser()}/"]
    for dataset in (synthetic, real):
        out = tmp_path / dataset.folder.name
        export(dataset, out, form, internal=dataset is real)
        files = [dataset.folder / "dataset.json", *(path for path in out.rglob("*") if path.is_file())]
        found = [(path.name, word) for path in files for word in secret if word.encode() in path.read_bytes()]
        assert not found


def test_nihs_layout_is_read_by_pandas_and_pillow_and_by_our_own_reader(
    synthetic: Dataset, real: Dataset, tmp_path: Path
) -> None:
    export(synthetic, tmp_path / "synthetic", "nih")
    table = pd.read_csv(tmp_path / "synthetic" / "Data_Entry_2017.csv")
    told = pd.read_csv(tmp_path / "synthetic" / "image_ids.csv")
    assert list(told["image_id"]) == list(synthetic.rows["image_id"])
    assert table["Patient ID"].is_unique
    listed = zip(table["Image Index"], table["Finding Labels"], synthetic.rows.itertuples(), strict=True)
    for name, wanted, row in listed:
        with Image.open(tmp_path / "synthetic" / "images_001" / "images" / name) as image:
            assert image.text["Disclaimer"] == SYNTHETIC
            assert np.array_equal(np.asarray(image), synthetic.image(row))
        assert set(wanted.split("|")) == set(synthetic.findings.decode(row.labels))

    export(real, tmp_path / "real", "nih", internal=True)
    read = read_chestxray14(ChestXray14Data(kind="chestxray14", metadata=tmp_path / "real"))
    rows = read.rows.sort_values("image_id", ignore_index=True)
    for column in ("image_id", "patient_id", "view", "sex", "labels", "follow_up"):
        assert list(rows[column]) == list(real.rows[column]), column
    assert list(rows["split"] == "test") == list(real.rows["split"] == "test")
    boxes = [(row.image_id, box["finding"]) for row in real.rows.itertuples() for box in row.boxes]
    assert sorted(zip(read.boxes["image_id"], read.boxes["finding"], strict=True)) == sorted(boxes)


def test_dicom_objects_are_read_by_pydicom_and_say_that_they_are_synthetic(synthetic: Dataset, tmp_path: Path) -> None:
    export(synthetic, tmp_path / "out", "dicom")
    uids = set()
    for row in synthetic.rows.itertuples():
        it = pydicom.dcmread(tmp_path / "out" / "000" / f"{row.image_id}.dcm")
        assert np.array_equal(it.pixel_array, synthetic.image(row))
        assert (it.PhotometricInterpretation, it.SyntheticData, it.ConversionType) == ("MONOCHROME2", "YES", "SYN")
        assert (it.PatientID, it.PatientSex, it.StudyDate) == (row.image_id, "", "")
        assert labels(synthetic, row.labels).replace("|", ", ") in it.ImageComments
        for uid in (it.SOPInstanceUID, it.SeriesInstanceUID, it.StudyInstanceUID):
            assert uid.is_valid
            uids.add(uid)
    assert len(uids) == 3 * synthetic.info.num_images


def test_dicom_objects_are_what_the_standard_wants(synthetic: Dataset, tmp_path: Path) -> None:
    programs = ("dcmdump", "dciodvfy")
    lacking = [name for name in programs if not shutil.which(name)]
    require("dicom", not lacking, f"there is no {' and no '.join(lacking)} (apt-get install dcmtk dicom3tools)")
    export(synthetic, tmp_path / "out", "dicom")
    for path in sorted((tmp_path / "out").rglob("*.dcm"))[:5]:
        dump = subprocess.run(["dcmdump", path], capture_output=True, text=True, check=True)
        assert "SYNTHETIC^NOT A PATIENT" in dump.stdout
        checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        told = (checked.stdout + checked.stderr).splitlines()
        # Synthetic Data came to the standard later than to this program.
        assert not [line for line in told if "Error" in line and "(0x0008,0x001c)" not in line], checked.stderr


def test_real_images_are_not_exported_as_dicom(real: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only synthetic images are exported as DICOM"):
        export(real, tmp_path / "out", "dicom")
    assert not list(tmp_path.iterdir())


def test_a_killed_export_goes_on_where_it_was_and_one_of_another_dataset_does_not(
    synthetic: Dataset, real: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(synthetic, tmp_path / "whole", "imagefolder")
    part = tmp_path / ".out.partial"
    part.mkdir(mode=0o700)
    shutil.copytree(tmp_path / "whole", part / "content")
    (part / "export.json").write_text(json.dumps({"form": "imagefolder", **synthetic.marks()}))
    files = sorted(part.rglob("*.png"))
    kept, cut = files[0], files[1]
    before = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:50])
    with pytest.raises(UserError, match="the export of another Dataset was begun here"):
        export(real, tmp_path / "out", "imagefolder", internal=True)
    export(synthetic, tmp_path / "out", "imagefolder")
    assert (tmp_path / "out" / kept.relative_to(part / "content")).stat().st_mtime_ns == before
    told = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "out")
    ]
    assert told[0] == told[1]
    with pytest.raises(UserError, match="is there already"):
        export(synthetic, tmp_path / "out", "imagefolder")


def test_the_card_says_what_is_in_it_what_made_it_and_what_it_must_not_be_used_for(
    synthetic: Dataset, tmp_path: Path
) -> None:
    export(synthetic, tmp_path / "out", "imagefolder")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Every image is synthetic: made by a model, of no patient.**" in card
    assert f"{synthetic.info.num_images:,} images of {synthetic.info.size} x {synthetic.info.size} pixels" in card
    assert f"model (sha256 of its weights): `{synthetic.info.about['series'][0]['model']}`" in card
    assert "which learnt from" in card
    assert "Not for diagnosis" in card


def test_an_image_is_made_again_bit_for_bit_with_its_batch_and_nearly_so_alone(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = undisturbed / "nano" / "synthetic"
    last = Dataset.open(folder).rows["image_id"].iloc[-1]
    for image_id in ("syn-00000001", last):
        strict = cxr("data", "reproduce", folder, image_id, "--strict", "--out", tmp_path / "again.png")
        assert strict.stdout == f"{image_id}: the same, bit for bit\n", strict.stderr
    alone = cxr("data", "reproduce", folder, "syn-00000001")
    assert alone.returncode == 0, alone.stderr
    assert "by at most 1 of 255" in alone.stdout or "the same" in alone.stdout


def test_what_cannot_be_made_again_says_why(undisturbed: Path, tmp_path: Path) -> None:
    folder = undisturbed / "nano"
    missing = cxr("data", "reproduce", folder / "synthetic", "syn-99999999")
    assert "no image 'syn-99999999'" in missing.stderr
    first = Dataset.open(folder / "real").rows["image_id"].iloc[0]
    real = cxr("data", "reproduce", folder / "real", first, "--model", folder / "diffusion")
    assert "is a real one" in real.stderr
    other = cxr("data", "reproduce", folder / "synthetic", "syn-00000001", "--model", "tiny_base")
    assert other.returncode == 2

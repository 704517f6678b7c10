"""What a run was made of is frozen by content: tables, lists, images, models and Datasets elsewhere."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.run import Run
from cxr_core.runs.sources import KnownFiles
from jobs.config import RunConfig
from jobs.launch import run_stages
from jobs.origin import Consent
from jobs.outside import path_digest
from tests.local.test_upgrade import OLD
from tests.radiographs import entry, grey, png, write_nih

NAMES = [f"{number:08d}_000.png" for number in range(1, 13)]
TAKE = Consent(inputs=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve patients in NIH's layout, and a list of one image to leave out."""
    (tmp_path / "leave_out.txt").write_text(NAMES[11] + "\n")
    return write_nih(tmp_path / "nih", [entry(name) for name in NAMES], test=NAMES[9:])


def config(source: Path, **data: Any) -> RunConfig:
    given = {"kind": "chestxray14", "metadata": str(source), "expect_size": None}
    given |= {"exclude_lists": [str(source.parent / "leave_out.txt")], **data}
    stage = {"name": "real", "kind": "preprocess", "size": 16, "shard_size": 4, "threads": 1, "data": given}
    return RunConfig.model_validate({"name": "frozen", "stages": [stage]})


def run(source: Path, consent: Consent = Consent(), **data: Any) -> int:  # noqa: B008
    """Run it; returns how many shards were made now."""
    (result,) = run_stages(config(source, **data), source.parent / "runs", consent=consent)
    return result.num_made


def labels(source: Path) -> dict[str, int]:
    from cxr_core.data.dataset import Dataset

    rows = Dataset.open(source.parent / "runs" / "frozen" / "real").rows
    return dict(zip(rows["image_id"], rows["labels"], strict=True))


def image_of(source: Path, name: str) -> Path:
    return source / "images_001" / "images" / name


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a text; its size and times stay, which is how an edit could hide."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_given_an_edited_table_then_rows_and_values_are_named_and_taken_only_when_asked(source: Path) -> None:
    assert run(source) == 3
    rewrite(source / "Data_Entry_2017_v2020.csv", f"{NAMES[2]},No Finding", f"{NAMES[2]},Mass")
    with pytest.raises(UserError) as refused:
        run(source)
    for word in ("Data_Entry_2017_v2020.csv: has changed", "1 row changed", "(labels No Finding -> Mass)"):
        assert word in str(refused.value)
    assert NAMES[2][:-4] in str(refused.value)
    rewrite(source / "Data_Entry_2017_v2020.csv", f"{NAMES[3]},No Finding", f"{NAMES[3]},Mas")
    with pytest.raises(UserError, match=r"row 5: .*unknown finding 'Mas'"):
        run(source, TAKE)
    assert not (source.parent / "runs" / "frozen" / "real" / "quarantine").exists()
    rewrite(source / "Data_Entry_2017_v2020.csv", f"{NAMES[3]},Mas", f"{NAMES[3]},No Finding")
    assert run(source, TAKE) == 3
    assert labels(source)[NAMES[2][:-4]] != 0
    assert list((source.parent / "runs" / "frozen" / "real" / "quarantine").glob("*/stage.json"))
    assert len(list((source.parent / "runs" / "frozen" / "real" / "quarantine").glob("*/receipts/*.json"))) == 3
    assert run(source) == 0


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("leave_out.txt", f"{NAMES[11]}\n{NAMES[0]}\n", "leave_out.txt: has changed"),
        ("leave_out.txt", f"{NAMES[10]}\n", "leave_out.txt: has changed"),
        ("nih/test_list.txt", f"{NAMES[8]}\n{NAMES[9]}\n{NAMES[10]}\n{NAMES[11]}\n", "test_list.txt: has changed"),
        (
            "nih/BBox_List_2017.csv",
            f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{NAMES[3]},Mass,1,1,9,9,,,\n",
            "BBox",
        ),
    ],
)
def test_given_an_edited_list_then_the_run_is_refused(source: Path, file: str, text: str, word: str) -> None:
    run(source)
    (source.parent / file).write_text(text)
    with pytest.raises(UserError, match=word):
        run(source)


def test_given_another_picture_under_an_old_name_then_it_is_named(source: Path) -> None:
    run(source)
    path = image_of(source, NAMES[4])
    path.write_bytes(png(grey(99)))
    with pytest.raises(UserError, match=rf"1 image changed: .*{NAMES[4]}"):
        run(source)
    assert run(source, TAKE) == 3
    path.unlink()
    with pytest.raises(UserError, match=NAMES[4][:-4]):
        run(source)


def test_given_fewer_or_more_images_where_some_may_be_missing_then_they_are_named(source: Path) -> None:
    path = image_of(source, NAMES[4])
    run(source, missing="subset")
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=rf"1 image without a row or a file now: {NAMES[4][:-4]}"):
        run(source, missing="subset")
    assert run(source, TAKE, missing="subset") == 3
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"1 image not there before: {NAMES[4][:-4]}"):
        run(source, missing="subset")


def test_given_inputs_of_which_no_plan_can_be_made_then_what_there_is_stands(source: Path) -> None:
    assert run(source) == 3
    table = source / "Data_Entry_2017_v2020.csv"
    whole = table.read_bytes()
    table.write_text("nothing\n")
    with pytest.raises(UserError, match="cannot take its inputs as they are"):
        run(source, TAKE)
    table.write_bytes(whole)
    assert run(source) == 0


def test_given_equal_content_in_new_files_then_nothing_has_changed(source: Path) -> None:
    run(source)
    shutil.copytree(source, source.with_name("copy"), copy_function=shutil.copyfile)
    shutil.rmtree(source)
    source.with_name("copy").rename(source)
    (source.parent / "leave_out.txt").touch()
    table = source / "Data_Entry_2017_v2020.csv"
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n"))
    shutil.copy(image_of(source, NAMES[0]), image_of(source, "00000099_000.png"))  # a file that no row names
    assert run(source) == 0
    before = (source.parent / "runs" / "frozen" / "real" / "sources.json").read_text()
    assert run(source) == 0
    assert (source.parent / "runs" / "frozen" / "real" / "sources.json").read_text() == before


def test_given_sources_put_away_after_the_end_then_the_dataset_stands(source: Path) -> None:
    run(source)
    source.rename(source.with_name("archive"))
    assert run(source) == 0


def test_given_images_to_read_yet_then_those_that_changed_are_read_as_they_are(source: Path) -> None:
    run(source)
    stage = Run.open(source.parent / "runs" / "frozen").stage("real")
    (stage.path / "stage.json").unlink()
    (stage.path / "receipts" / "00001.json").unlink()
    image_of(source, NAMES[5]).write_bytes(png(grey(77)))  # of shard 1
    assert run(source) == 1
    (stage.path / "stage.json").unlink()
    image_of(source, NAMES[0]).write_bytes(png(grey(78)))  # of shard 0, which is done
    with pytest.raises(UserError, match=NAMES[0]):
        run(source)


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD / "runs.tar.xz") as archive:
        archive.extractall(folder)  # ours; `filter=` came with Python 3.11.4
    return folder / "runs" / "small"


def test_a_model_elsewhere_is_known_by_content_even_where_size_and_time_stay(old_run: Path, tmp_path: Path) -> None:
    (checkpoint,) = (path.parent for path in (old_run / "vae" / "shards").glob("*/model_index.json"))
    model = shutil.copytree(checkpoint, tmp_path / "model")
    known = KnownFiles(tmp_path / "stage")
    before, files = path_digest(model, known)
    assert f"{model}/unet/diffusion_pytorch_model.safetensors" in files
    (model / "README.md").write_text("no part of the model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.touch()
    assert path_digest(model, known)[0] == before == path_digest(checkpoint, KnownFiles(tmp_path / "other"))[0]
    status, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path_digest(model, known)[0] != before


def test_given_a_dataset_or_a_model_elsewhere_that_changed_then_the_run_is_refused(
    old_run: Path, tmp_path: Path
) -> None:
    (checkpoint,) = (path.parent for path in (old_run / "vae" / "shards").glob("*/model_index.json"))
    dataset, base = shutil.copytree(old_run / "real", tmp_path / "data"), shutil.copytree(checkpoint, tmp_path / "base")
    stage = {"name": "latents", "kind": "latents", "inputs": {"dataset": str(dataset), "base": str(base)}, "threads": 1}
    settings = RunConfig.model_validate({"name": "outside", "stages": [stage]})
    (made,) = run_stages(settings, tmp_path / "runs")
    index, weights = dataset / "index.parquet", base / "vae" / "diffusion_pytorch_model.safetensors"
    for path in (index, weights):
        before, status = path.read_bytes(), path.stat()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(UserError, match=rf"stage 'latents'.*\n +{path}: has changed"):
            run_stages(settings, tmp_path / "runs")
        path.write_bytes(before)
        assert run_stages(settings, tmp_path / "runs")[0].num_made == 0
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert run_stages(settings, tmp_path / "runs", consent=TAKE)[0].num_made == made.num_made

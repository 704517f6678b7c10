"""The Dataset on disk: members of any name are found again, and whatever is damaged is named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from typer.testing import CliRunner

from cxr_core.data.dataset import Dataset, member_key
from cxr_core.errors import UserError
from jobs.cli import app
from jobs.data import verify
from tests.planted import planted_image, planted_row, planted_rows, write_planted

UID = ("1.2.826.0.1.3680043.8." + "498.1234567890." * 7)[:120]


def test_images_of_long_names_with_dots_are_read_back_by_us_and_by_webdataset(tmp_path: Path) -> None:
    rows = [planted_row(name) for name in ("a", UID, "z")]
    dataset = write_planted(tmp_path, rows)
    assert len(UID) == 120
    assert list(dataset.verify()) == []
    for given, row in zip(sorted(rows, key=lambda row: row["image_id"]), dataset.rows.itertuples(), strict=True):
        assert np.array_equal(dataset.image(row), planted_image(given, 32))
    tar = tmp_path / "shards" / "00000.tar"
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [member_key(row["image_id"]) for row in rows]
    assert [json.loads(sample["json"])["image_id"] for sample in samples] == ["a", UID, "z"]
    assert samples[1]["png"] == dataset.png(next(row for row in dataset.rows.itertuples() if row.image_id == UID))


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def with_text(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def with_bytes(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_bytes("dataset.json", b"\xff\xfe{}"), "damaged (Invalid JSON: expected value"),
        (with_bytes("dataset.json", b"{"), "damaged (Invalid JSON: EOF"),
        (with_bytes("dataset.json", b"[1]"), "damaged (Input should be an object"),
        (with_bytes("dataset.json", b"{}"), "format None, but this version reads 1"),
        (with_bytes("dataset.json", b'{"format": 1}'), "damaged (findings: Field required"),
        (with_bytes("dataset.json", b'{"format": 0}'), "format 0, but this version reads 1"),
        (with_text("dataset.json", '"name": "shards', '"nome": "shards'), "damaged (shards.0.name: Field required"),
    ],
)
def test_given_a_damaged_description_then_opening_names_it(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write_planted(tmp_path, planted_rows(2))
    damage(tmp_path)
    with pytest.raises(UserError) as caught:
        Dataset.open(tmp_path)
    assert f"{tmp_path / 'dataset.json'}: {message}" in str(caught.value)
    assert caught.value.hint


def test_given_shards_that_are_no_entries_then_opening_names_the_first(tmp_path: Path) -> None:
    write_planted(tmp_path, planted_rows(2))
    value = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(value | {"shards": ["shards/00000.tar"]}))
    with pytest.raises(UserError, match=r"dataset\.json: damaged \(shards\.0: "):
        Dataset.open(tmp_path)


def cut_index(folder: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"]}), folder / "index.parquet")


@pytest.mark.parametrize("damage", [without("index.parquet"), with_bytes("index.parquet", b"PAR1"), cut_index])
def test_given_a_damaged_index_then_summary_refuses_and_verify_lists_it(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    write_planted(tmp_path, planted_rows(2))
    damage(tmp_path)
    with pytest.raises(UserError, match=r"index\.parquet: damaged \(") as caught:
        _ = Dataset.open(tmp_path).rows
    assert caught.value.hint
    for command in ("summary", "verify"):
        assert isinstance(CliRunner().invoke(app, ["data", command, str(tmp_path)]).exception, UserError)
    (line,) = Dataset.open(tmp_path).verify()
    assert line.startswith("index.parquet: damaged (")


def test_given_a_missing_shard_then_its_image_names_it_and_verify_gives_it_one_line(tmp_path: Path) -> None:
    dataset = write_planted(tmp_path, planted_rows(2))
    (tmp_path / "shards" / "00000.tar").unlink()
    with pytest.raises(UserError, match=r"00000\.tar: damaged \(image 'train-00000' cannot be read: No such file"):
        dataset.png(next(dataset.rows.itertuples()))
    assert list(dataset.verify()) == ["shards/00000.tar: missing"]


def test_given_a_short_shard_then_its_images_are_named(tmp_path: Path) -> None:
    dataset = write_planted(tmp_path, planted_rows(2))
    with (tmp_path / "shards" / "00000.tar").open("r+b") as tar:
        tar.truncate(dataset.rows["offset"][1] + 10)
    first, second = dataset.rows.itertuples()
    assert dataset.image(first).shape == (32, 32)
    with pytest.raises(UserError, match=r"00000\.tar: damaged \(ends before image 'train-00001' does\)"):
        dataset.png(second)
    shard, image = dataset.verify()
    assert "with another sha256 than recorded" in shard
    assert image == "train-00001 in shards/00000.tar: damaged (ends before image 'train-00001' does)"


def test_given_damage_outside_a_run_then_no_command_of_a_run_is_named(tmp_path: Path) -> None:
    dataset = write_planted(tmp_path / "real", planted_rows(2))
    (dataset.folder / "shards" / "00000.tar").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        verify(dataset.folder)
    assert "copy it anew" in caught.value.hint
    (tmp_path / "config.yaml").write_text("name: x")
    with pytest.raises(UserError) as caught:
        verify(dataset.folder)
    assert caught.value.hint.startswith(f"`cxr verify {tmp_path} --repair`")


def test_given_a_dataset_in_the_role_of_the_other_kind_then_it_is_refused(tmp_path: Path) -> None:
    real = write_planted(tmp_path / "real", planted_rows(2))
    made = write_planted(tmp_path / "made", planted_rows(2), synthetic=True)
    assert real.given_as("real") is real
    assert made.given_as("synthetic.1") is made
    for dataset, role in ((real, "synthetic"), (real, "synthetic.1"), (made, "real"), (made, "like")):
        with pytest.raises(UserError, match=f"Dataset, but is given as `{role}`") as caught:
            dataset.given_as(role)
        assert caught.value.where == str(dataset.folder)

"""A Dataset that somebody else wrote: no file but its own is read, and each thing that is wrong with it is named."""

import io
import json
import os
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cxr_core.data.dataset import SCHEMA, Dataset
from cxr_core.data.png import encode_grey
from cxr_core.errors import UserError
from cxr_core.export.browse import write_page
from cxr_core.export.write import export
from cxr_core.runs.files import sha256_file
from jobs.cli import app
from tests.planted import planted_image, planted_row, planted_rows, write_planted

FORMS = ("imagefolder", "webdataset", "nih")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "private").write_bytes(b"PRIVATE KEY " * 40)
    write_planted(tmp_path / "data", planted_rows(4))
    return tmp_path / "data"


def change_index(folder: Path, column: str, value: Any, row: int = 1) -> None:
    """The index with another value in one cell, of whatever type."""
    table = pq.read_table(folder / "index.parquet")
    values = table[column].to_pylist()
    values[row] = value
    kind = SCHEMA.field(column).type if not isinstance(value, float) or column == "age" else pa.float64()
    table = table.set_column(table.column_names.index(column), column, pa.array(values, kind))
    pq.write_table(table, folder / "index.parquet")


def change_info(folder: Path, **values: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, words: str) -> None:
    """Every command that looks into the Dataset says `words`, and nothing is written beside it."""
    before = sorted(folder.parent.iterdir())
    for command in ("summary", "verify"):
        result = CliRunner().invoke(app, ["data", command, str(folder)])
        assert isinstance(result.exception, UserError), (command, result.output, result.exception)
        assert words in f"{result.output}{result.exception}", (command, result.output, result.exception)
    for form in FORMS:
        with pytest.raises(UserError, match=re.escape(words)):
            export(Dataset.open(folder), folder.parent / f"out-{form}", form, internal=True)
    assert sorted(path for path in folder.parent.iterdir() if not path.name.startswith(".out")) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["{}/private", "../private", "/proc/self/environ", "shards/../../private", "link"])
def test_no_file_that_a_row_names_leaves_in_an_export(folder: Path, form: str, name: str) -> None:
    (folder / "link").symlink_to("../private")
    name = name.format(folder.parent)
    change_index(folder, "shard", name)
    change_index(folder, "offset", 0)
    change_index(folder, "length", 100)
    for with_tar in (False, True):
        if with_tar:
            info = json.loads((folder / "dataset.json").read_text())
            change_info(folder, shards=[*info["shards"], {**info["shards"][0], "name": name}])
        with pytest.raises(UserError):
            export(Dataset.open(folder), folder.parent / "out", form, internal=True)
        left = [path for path in folder.parent.rglob("*") if path.is_file() and path.parent != folder.parent]
        assert not [path for path in left if b"PRIVATE KEY" in path.read_bytes() and path.resolve() == path]
        assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("what", ["tar", "shards"])
def test_a_link_where_the_tars_lie_is_not_followed(folder: Path, what: str) -> None:
    moved = folder.parent / "elsewhere"
    path = folder / "shards" if what == "shards" else folder / "shards" / "00000.tar"
    path.rename(moved)
    path.symlink_to(moved)
    with pytest.raises(UserError, match="a link"):
        export(Dataset.open(folder), folder.parent / "out", "imagefolder", internal=True)
    assert any("a link" in line for line in Dataset.open(folder).verify())


@pytest.mark.parametrize(
    "name", ["../../victim", "/tmp/victim", ".hidden", "a/../../b", "a\nb", "a\x1b[2J", "", "a" * 256]
)
def test_an_image_id_is_the_name_of_one_file_or_is_refused(folder: Path, name: str) -> None:
    change_index(folder, "image_id", name)
    refused(folder, "no plain name")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_id", None),
        ("patient_id", None),
        ("split", None),
        ("split", "../out"),
        ("labels", -1),
        ("labels", 1 << 62),
        ("labels", None),
        ("width", 30_000),
        ("height", 0),
        ("offset", -1),
        ("offset", 1 << 62),
        ("offset", None),
        ("length", 1 << 62),
        ("length", -1),
        ("length", 0),
        ("age", float("inf")),
        ("boxes", [{"finding": "Mass", "x": float("nan"), "y": 0.0, "w": 1.0, "h": 1.0}]),
        ("boxes", [{"finding": None, "x": 0.0, "y": 0.0, "w": 1.0, "h": 1.0}]),
        ("boxes", [None]),
        ("shard", "shards/00001.tar"),
        ("shard", None),
        ("follow_up", 0.5),
    ],
)
def test_a_value_that_no_image_has_is_named_with_its_column(folder: Path, column: str, value: Any) -> None:
    change_index(folder, column, value)
    refused(folder, column if column != "follow_up" else "index.parquet")


def test_images_are_counted_truly(folder: Path) -> None:
    change_index(folder, "image_id", "train-00000")
    refused(folder, "image 'train-00000' has 2 rows")
    change_index(folder, "image_id", "train-00001")
    change_info(folder, num_images=9)
    refused(folder, "4 rows, but dataset.json records 9 images")


def test_an_empty_index_is_no_dataset_of_four_images_and_one_of_none_is_told(folder: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), folder / "index.parquet")
    refused(folder, "0 rows, but dataset.json records 4 images")
    empty = write_planted(folder.parent / "empty", [])
    result = CliRunner().invoke(app, ["data", "summary", str(empty.folder)])
    assert result.exit_code == 0, result.exception
    assert "0 images" in result.output


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"size": 10**9},
        {"size": 0},
        {"size": 2.5},
        {"num_images": -1},
        {"num_images": 1 << 70},
        {"digest": "\x1b[2J"},
        {"findings": ["Mass", "Mass"]},
        {"findings": [str(i) for i in range(70)]},
        {"findings": None},
        {"findings": ["a" * 2000]},
        {"shards": [{"name": "../../a.tar", "bytes": 1, "sha256": "0" * 64, "num_images": 1}]},
        {"shards": [{"name": "/etc/passwd", "bytes": 1, "sha256": "0" * 64, "num_images": 1}]},
        {"shards": [{"name": "a.tar", "bytes": -1, "sha256": "0" * 64, "num_images": 1}]},
    ],
)
def test_a_description_that_is_none_is_refused_at_once(folder: Path, values: dict[str, Any]) -> None:
    change_info(folder, **values)
    refused(folder, next(iter(values)))


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet", "shards/00000.tar"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "loop"])
def test_what_is_no_file_is_named_and_nothing_waits(folder: Path, name: str, what: str) -> None:
    path = folder / name
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "device" else path)
    with pytest.raises(UserError, match=path.name):
        dataset = Dataset.open(folder)
        assert any(path.name in line for line in dataset.verify())
        dataset.images(dataset.rows)


def with_header(png: bytes, width: int, height: int) -> bytes:
    import zlib

    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png[:8] + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + png[33:]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda png: with_header(png, 30_000, 30_000),
        lambda png: with_header(png, 32, 33),
        lambda png: png + b"PRIVATE KEY",
        lambda png: png[:-12],
        lambda png: b"PRIVATE KEY" * 20,
        lambda png: png[:8],
        lambda png: png[:33] + b"\xff\xff\xff\xff" + png[37:],
        lambda png: b"\xff\xd8\xff" + png,
    ],
)
def test_what_is_exported_is_one_png_of_the_datasets_size(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    write_planted(tmp_path / "data", planted_rows(2))
    png = spoil(encode_grey(planted_image(planted_row("a"), 32)))
    tar = tmp_path / "data" / "shards" / "00000.tar"
    tar.write_bytes(png)
    for row in (0, 1):
        change_index(tmp_path / "data", "offset", 0, row)
        change_index(tmp_path / "data", "length", len(png), row)
    for form in FORMS:
        with pytest.raises(UserError, match="not one 8-bit grey PNG of 32 x 32 pixels"):
            export(Dataset.open(tmp_path / "data"), tmp_path / form, form, internal=True)


def odd_tar(path: Path) -> None:
    """The tar as it is, with members that no Dataset has after its own."""
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("../../victim", tarfile.REGTYPE),
            ("/tmp/victim", tarfile.REGTYPE),
            ("link", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("folder", tarfile.DIRTYPE),
            ("twice.png", tarfile.REGTYPE),
            ("twice.png", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO())


def test_verify_names_members_that_no_dataset_has_and_nothing_is_extracted(folder: Path) -> None:
    tar = folder / "shards" / "00000.tar"
    odd_tar(tar)
    for is_told in (False, True):
        if is_told:
            (shard,) = json.loads((folder / "dataset.json").read_text())["shards"]
            change_info(folder, shards=[shard | {"bytes": tar.stat().st_size, "sha256": sha256_file(tar)}])
        lines = [line for line in Dataset.open(folder).verify() if "member" in line]
        named = ("../../victim", "/tmp/victim", "link", "hard", "device", "pipe", "folder", "twice.png")
        assert [next(word for word in named if repr(word) in line) for line in lines] == list(named)
    export(Dataset.open(folder), folder.parent / "out", "webdataset", internal=True)
    for path in (folder.parent / "out").glob("*.tar"):
        with tarfile.open(path) as exported:
            assert all(member.isreg() and "/" not in member.name for member in exported)


def test_a_tar_whose_header_asks_for_a_terabyte_is_named(folder: Path) -> None:
    tar = folder / "shards" / "00000.tar"
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE):
        member = tarfile.TarInfo("a")
        member.type, member.size = kind, 1 << 40
        tar.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        (shard,) = json.loads((folder / "dataset.json").read_text())["shards"]
        change_info(folder, shards=[shard | {"bytes": tar.stat().st_size, "sha256": sha256_file(tar)}])
        assert any(line.startswith("shards/00000.tar: ") for line in Dataset.open(folder).verify())


@pytest.mark.parametrize("text", ["null", "[1]", '{"gate": 5}', "{", '{"gate": {"scores": "x"}}', "[" * 100_000])
def test_a_record_of_generation_that_is_none_is_named_with_its_image(tmp_path: Path, text: str) -> None:
    rows = [planted_row("a", split="synthetic", patient_id="", seed=1, generation=text)]
    dataset = write_planted(tmp_path / "data", rows, synthetic=True)
    for write in (lambda: write_page(dataset, tmp_path / "page"), lambda: export(dataset, tmp_path / "out", "dicom")):
        with pytest.raises(UserError, match="image 'a'"):
            write()


def write_index(folder: Path, table: pa.Table) -> None:
    pq.write_table(table, folder / "index.parquet")


def test_an_index_of_other_types_or_text_is_refused(folder: Path) -> None:
    table = pq.read_table(folder / "index.parquet")
    place = table.column_names.index("prompt")
    broken = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(struct.pack("<5i", 0, 1, 2, 3, 4)), pa.py_buffer(b"\xff\xfe\xfd\xfc")]
    )
    for values in (pa.array([{"a": 1}] * 4), pa.array([[1]] * 4), broken):
        write_index(folder, table.set_column(place, "prompt", values))
        refused(folder, "index.parquet")
    write_index(folder, table.append_column("image_id", table["image_id"]))
    refused(folder, "index.parquet")
    write_index(folder, table)
    data = bytearray((folder / "index.parquet").read_bytes())
    (folder / "index.parquet").write_bytes(data[:-8] + struct.pack("<I", 1 << 30) + b"PAR1")
    refused(folder, "index.parquet")

"""Tables as people save them: read where they are clear, else refused with their row and the true remedy."""

import gzip
import os
from pathlib import Path

import pytest

from cxr_core.data.csvfile import Csv
from cxr_core.data.settings import BoxFile
from cxr_core.data.sources import plan_source
from cxr_core.errors import UserError
from tests.radiographs import entry, grey, nih_stage, png, stage, write_nih

TEXT = 'image,patient,labels\na.png,Müller,"Mass|Nodule, large"\nb.png,2,No Finding\n'
CELLS = [["a.png", "Müller", "Mass|Nodule, large"], ["b.png", "2", "No Finding"]]


def read(folder: Path, data: bytes) -> Csv:
    (folder / "t.csv").write_bytes(data)
    return Csv.read(folder / "t.csv")


def refused(folder: Path, data: bytes) -> UserError:
    with pytest.raises(UserError) as caught:
        read(folder, data)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        gzip.compress(TEXT.encode(), mtime=0),
        gzip.compress(TEXT.encode("utf-16"), mtime=0),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.replace(",", "\t").replace("\t ", ", ").encode("utf-16"),
        TEXT.replace(",", ";").replace("; ", ", ").encode(),
        b"sep=;\r\n" + TEXT.replace(",", ";").replace("; ", ", ").encode(),
        TEXT.replace("image,patient", " image , patient").encode(),
        TEXT.replace(',"', ', "').encode(),
        (TEXT + ",,\n , ,\n").encode(),
    ],
    ids=[
        "mark",
        "CRLF",
        "CR",
        "gzip",
        "gzip of UTF-16",
        "UTF-16",
        "UTF-16 BE",
        "tabs",
        "semicolons",
        "sep=",
        "blanks",
        "blank before quote",
        "empty rows",
    ],
)
def test_each_form_that_spreadsheets_write_gives_the_same_cells(data: bytes, tmp_path: Path) -> None:
    csv = read(tmp_path, data)
    assert list(csv.cells.columns) == ["image", "patient", "labels"]
    assert csv.cells.to_numpy().tolist() == CELLS


@pytest.mark.parametrize(
    ("more", "row", "said"),
    [
        ('c.png,"Mass" big,3\n', 4, "line 4"),
        ('c.png,"Mass,3\nd.png,2,3\ne.png,2,3\n', 4, "lines 4 to 6"),
        ('c.png,"Mass,3\nd.png,2,3\ne.png,"2",3\n', 4, "lines 4 to 6"),
        ('c.png,"two\nlines",3\nd.png,"x" y,3\n', 5, "line 6"),
        ("\nc.png,1\n", 5, "2 cells, but the header has 3"),
        ("c.png,1,2,3\n", 4, "4 cells, but the header has 3"),
        ("c\0.png,1,2\n", 4, "a byte of zero"),
    ],
)
def test_a_bad_quote_a_ragged_row_and_a_zero_byte_are_named_with_their_row(
    more: str, row: int, said: str, tmp_path: Path
) -> None:
    error = refused(tmp_path, (TEXT + more).encode())
    assert error.where == f"{tmp_path}/t.csv, row {row}"
    assert said in error.what
    assert error.hint


def test_a_table_in_another_encoding_is_refused_with_row_byte_and_the_command_that_helps(tmp_path: Path) -> None:
    error = refused(tmp_path, TEXT.encode("latin-1"))
    assert error.where.endswith("t.csv, row 2")
    assert "0xfc is no UTF-8" in error.what
    assert "iconv -f latin1" in error.hint
    error = refused(tmp_path, TEXT.encode("utf-16-le"))
    assert error.where.endswith("t.csv, row 1")
    assert "iconv -f utf-16le" in error.hint
    assert "row 3" in refused(tmp_path, TEXT.encode("utf-16")[:-1]).where


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04rest", "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0rest", "an old Excel workbook"),
        (b"BZh9rest", "bzip2"),
        (b"PAR1rest", "Parquet"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-12], "cannot be read"),
        (gzip.compress(TEXT.encode(), mtime=0)[:15] + b"x" * 30, "cannot be read"),
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
    ],
)
def test_what_is_no_table_is_called_by_what_it_is(data: bytes, said: str, tmp_path: Path) -> None:
    error = refused(tmp_path, data)
    assert said in error.what
    assert error.where == f"{tmp_path}/t.csv"
    assert error.hint


def test_a_pipe_or_a_folder_in_the_place_of_a_table_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path, said in ((tmp_path / "pipe.csv", "no regular file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=said):
            Csv.read(path)


def test_characters_that_other_programs_take_for_line_ends_stay_in_their_cells(tmp_path: Path) -> None:
    csv = read(tmp_path, "image,note\na,x\u2028y\x0bz\x85\nb,\x1c\n".encode())
    assert csv.cells["note"].tolist() == ["x\u2028y\x0bz\x85", "\x1c"]


def test_rows_below_a_hint_for_excel_keep_their_numbers(tmp_path: Path) -> None:
    assert "row 4" in refused(tmp_path, b"sep=;\nimage;labels\na;b\nc\n").where


def test_compressed_tables_and_box_lists_are_found_and_read(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", [entry("00000001_000.png", "Mass")])
    table = folder / "Data_Entry_2017_v2020.csv"
    (folder / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress(table.read_bytes(), mtime=0))
    table.unlink()
    boxes = b'[{"file_name": "00000001_000.png", "syms": ["Mass"], "boxes": [[1, 2, 11, 12]]}]'
    (folder / "boxes.json.gz").write_bytes(gzip.compress(boxes, mtime=0))
    data = {"further_boxes": [BoxFile(path=folder / "boxes.json.gz").model_dump()]}
    assert len(plan_source(nih_stage(folder, data=data)).rows["boxes"][0]) == 1
    (folder / "boxes.json.gz").write_bytes(gzip.compress(b"[" * 100_000, mtime=0))
    with pytest.raises(UserError, match="not a list of images"):
        plan_source(nih_stage(folder, data=data))


def test_a_header_alone_and_a_column_there_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(grey(1)))
    data = {"kind": "table", "csv": tmp_path / "t.csv", "images": [tmp_path], "findings": ["Cat"]}
    for text, said in (
        ("image,patient\n", "no rows"),
        ("image, image,patient\na,a,1\n", "2 columns are named 'image'"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(UserError, match=said):
            plan_source(stage(data))

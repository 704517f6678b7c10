"""Folders as people have them: what is an image file, what is passed over by a rule, what is named."""

import fcntl
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from cxr_core.data.folders import image_files
from cxr_core.data.paths import path_of, printable, read_regular, spelled
from cxr_core.data.sources import plan_source
from cxr_core.errors import UserError
from jobs.config import load_config
from jobs.launch import run_stages
from tests.radiographs import entry, grey, nih_stage, png, run_stage, stage, write_nih

NAMES = [f"{i:08d}_000.png" for i in range(1, 4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """NIH's layout with three images; `images` is where they lie."""
    return write_nih(tmp_path / "nih", [entry(name) for name in NAMES])


def images(folder: Path) -> Path:
    return folder / "images_001" / "images"


def walked(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the image files, and kind and detail of what was passed over, by its path below the folder."""
    odd: list[dict[str, str]] = []
    found = [os.path.relpath(path, folder) for path in image_files(folder, odd)]
    return found, {os.path.relpath(path_of(one["file"]), folder): f"{one['kind']}: {one['detail']}" for one in odd}


def test_companions_and_system_folders_are_passed_over_and_counted(folder: Path, tmp_path: Path) -> None:
    (images(folder) / f"._{NAMES[0]}").write_bytes(b"\0\5\26\7")
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        (folder / name).mkdir()
        (folder / name / NAMES[0]).write_bytes(png(grey(9)))
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")
    made, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert facts["num_images"] == 3
    assert facts["problems"] == {"passed_over": 4}
    (row,) = problems.itertuples()
    assert (row.cases, row.file) == ("4", "plan/passed_over.csv")
    listed = pd.read_csv(made / row.file)
    assert {Path(path).name for path in listed["file"]} == {f"._{NAMES[0]}", "__MACOSX", ".ipynb_checkpoints", "@eaDir"}


def test_a_name_that_is_no_file_is_named_and_nothing_waits_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = images(folder)
    (place / "lost.png").symlink_to("/gone/a.png")
    (place / "self.png").symlink_to("self.png")
    (place / "folder.png").mkdir()
    (place / "folder.png" / "inside.PNG").write_bytes(png(grey(8)))
    os.mkfifo(place / "pipe.png")
    Path(os.fsdecode(os.fsencode(place) + b"/\xff.png")).symlink_to(os.fsdecode(b"/\xfe"))
    (place / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as end:
        monkeypatch.chdir(place)  # A socket's address holds 107 bytes, which a deep temporary folder alone can fill.
        end.bind("s.png")
        found, odd = walked(place)
    assert found == [*NAMES, "folder.png/inside.PNG"]
    assert {name: text.removeprefix("not_a_file: ") for name, text in odd.items()} == {
        "lost.png": "a link to /gone/a.png: No such file or directory",
        "self.png": "a link to self.png: Too many levels of symbolic links",
        "folder.png": "a folder",
        "pipe.png": "a pipe",
        "null.png": "a device",
        "s.png": "a socket",
        "\udcff.png": "a link to file:/%FE: No such file or directory",
    }


def test_a_row_whose_file_is_a_dangling_link_has_no_image_and_the_link_is_told(folder: Path, tmp_path: Path) -> None:
    (images(folder) / NAMES[1]).unlink()
    (images(folder) / NAMES[1]).symlink_to(tmp_path / "unmounted" / NAMES[1])
    with pytest.raises(UserError) as caught:
        plan_source(nih_stage(folder))
    assert "1 of 3 rows have no image" in str(caught.value)
    assert f"a link to {tmp_path}/unmounted/{NAMES[1]}: No such file" in str(caught.value)
    plan = plan_source(nih_stage(folder, data={"missing": "subset"}))
    assert dict(plan.problems["kind"].value_counts()) == {"row_without_image": 1, "not_a_file": 1}
    with pytest.raises(UserError, match="not a file: a link to"):
        plan_source(nih_stage(folder, data={"missing": "subset"}, policies={"not_a_file": "fail"}))


def test_a_folder_of_passed_over_names_alone_is_an_error_that_says_so(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "copied").mkdir()
    for name in NAMES:
        (tmp_path / "copied" / f"._{name}").write_bytes(b"\0\5\26\7")
    with pytest.raises(UserError, match=rf"no PNG file .*; 3 names were passed over, the first is .*/\._{NAMES[0]}"):
        plan_source(nih_stage(folder, data={"images": [tmp_path / "copied"]}))


def test_a_linked_folder_is_walked_and_a_circle_is_left(folder: Path, tmp_path: Path) -> None:
    images(folder).rename(tmp_path / "elsewhere")
    images(folder).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(folder)
    found, odd = walked(folder)
    assert [Path(name).name for name in found] == NAMES
    assert odd == {"images_001/images/up": "passed_over: a link to a folder above it"}


def test_a_folder_whose_name_is_not_utf_8_is_read_and_its_images_can_be_named(folder: Path, tmp_path: Path) -> None:
    german = Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller"))
    images(folder).rename(german)
    (german / NAMES[0]).write_bytes(png(grey(1))[:-20])
    made, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert facts["num_images"] == 2
    (row,) = problems.itertuples()
    assert (row.kind, row.image_id) == ("truncated", "00000001_000")
    assert row.file == f"file:{folder}/M%FCller/{NAMES[0]}"
    assert path_of(row.file).read_bytes() == (german / NAMES[0]).read_bytes()
    assert (made / "problems.csv").read_text("utf-8").count("\n") == 2


def test_images_below_a_folder_that_is_not_utf_8_are_watched_for_changes(folder: Path, tmp_path: Path) -> None:
    german = Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller"))
    images(folder).rename(german)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"name: odd\nstages: [{{name: real, kind: preprocess, size: 16, "
        f"data: {{kind: chestxray14, metadata: {folder}, expect_size: null}}}}]\n"
    )
    for _ in range(2):
        run_stages(load_config(str(config)), tmp_path / "runs")
    (german / NAMES[0]).write_bytes(png(grey(77)))
    with pytest.raises(UserError, match="1 image changed"):
        run_stages(load_config(str(config)), tmp_path / "runs")


HOSTILE = [b"x\xff.png", b"a\nb.png", b"t\tab.png", b'q"uo"te.png', b"com,ma.png", b"-rf.png", b"per%cent.png"]


def test_a_strange_file_name_without_a_row_is_one_line_of_a_list(folder: Path, tmp_path: Path) -> None:
    for name in [*HOSTILE, b"l" * 251 + b".png"]:
        Path(os.fsdecode(os.fsencode(images(folder)) + b"/" + name)).write_bytes(png(grey(5)))
    made, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert facts["problems"] == {"image_without_row": len(HOSTILE) + 1}
    listed = pd.read_csv(made / problems["file"].item(), dtype=str)
    assert (made / problems["file"].item()).read_text().count("\n") == len(HOSTILE) + 2
    assert {os.fsencode(path_of(path).name) for path in listed["file"]} == {*HOSTILE, b"l" * 251 + b".png"}
    assert {"x%FF", "a%0Ab", "per%cent"} <= set(listed["image_id"])


def test_names_with_quotes_commas_and_other_scripts_are_joined_with_their_rows(tmp_path: Path) -> None:
    names = ['q"uo"te', "com,ma", "胸部 正面", "per%cent"]
    quoted = [name.replace('"', '""') for name in names]
    rows = [f'"{name}.png",p{number},Cat,PA' for number, name in enumerate(quoted)]
    (tmp_path / "t.csv").write_text("\n".join(["image,patient,labels,view", *rows]))
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "images" / f"{name}.PNG").write_bytes(png(grey(number)))
    data = {"kind": "table", "csv": tmp_path / "t.csv", "images": [tmp_path / "images"], "findings": ["Cat"]}
    _, facts, problems = run_stage(stage(data), tmp_path)
    assert facts["num_images"] == 4
    assert problems.empty


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xd8\xff\xe0" + bytes(40), "a JPEG"),
        (bytes(128) + b"DICM" + bytes(9), "a DICOM file"),
        (b"\0\5\26\7" + bytes(40), "a companion file of macOS"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x1f\x8b\x08" + bytes(40), "compressed by gzip"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_png_is_called_by_what_it_is(data: bytes, said: str, folder: Path, tmp_path: Path) -> None:
    (images(folder) / NAMES[0]).write_bytes(data)
    _, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert facts["num_images"] == 2
    assert said in problems["detail"].item()


@pytest.mark.parametrize("text", ["/a/b c.png", "/a/%20.png", "/a/\udcff.png", "/a/\n\t.png", "/胸.png"])
def test_a_path_can_be_spelled_and_read_back(text: str) -> None:
    assert spelled(text).isprintable()
    spelled(text).encode("utf-8")
    assert str(path_of(spelled(text))) == text
    assert printable(text).isprintable()


def test_a_pipe_in_the_place_of_an_image_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="no regular file"):
        read_regular(tmp_path / "a.png", 100)
    with pytest.raises(OSError, match="Is a directory"):
        read_regular(tmp_path, 100)
    (tmp_path / "b.png").write_bytes(bytes(101))
    assert read_regular(tmp_path / "b.png", 100) is None
    assert read_regular(tmp_path / "b.png", 101) == bytes(101)


def test_a_file_under_a_lease_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    holder = os.open(path, os.O_RDWR)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_regular, path, 100)
        time.sleep(0.1)
        assert not reading.done()
        os.close(holder)
        assert reading.result(10) == b"content"

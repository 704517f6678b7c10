"""Pictures that a run lists: none but the stage's own PNGs are embedded in the page."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_core.data.png import encode_grey
from cxr_core.errors import UserError
from cxr_core.report.evaluation import pixels_of, png_of
from cxr_core.report.training import read_preview

PNG = encode_grey(np.zeros((8, 8), np.uint8))


def huge() -> bytes:
    """A PNG of 30,000 x 30,000 by its header: a gigabyte, if it were decoded."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "study"
    (folder / "shards").mkdir(parents=True)
    (tmp_path / "private.png").write_bytes(PNG)
    (tmp_path / "run" / "patient.png").write_bytes(PNG)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../../private.png",
        "../patient.png",
        "{}/private.png",
        "shards/../../patient.png",
        "shards/link.png",
        "far/a.png",
        *("", ".", "..", "shards", "/dev/zero", "/proc/self/environ", "a\0b", "a\x1b[2J.png", "x" * 300, "shards/pipe"),
    ],
)
def test_no_picture_from_elsewhere_is_embedded(stage: Path, name: str) -> None:
    (stage / "shards" / "link.png").symlink_to(stage.parents[1] / "private.png")
    (stage / "far").symlink_to(stage.parent)
    (stage.parent / "a.png").write_bytes(PNG)
    os.mkfifo(stage / "shards" / "pipe")
    for read in (pixels_of, lambda folder, path: png_of(folder, path, "alt")):
        with pytest.raises(UserError, match="is no picture") as caught:
            read(stage, name.format(stage.parents[1]))
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PRIVATE KEY",
        huge(),
        PNG + b"PRIVATE KEY",
        PNG[:-1],
        PNG[:20],
        cv2.imencode(".jpg", np.zeros((8, 8)))[1].tobytes(),
    ],
    ids=["empty", "key", "huge", "key behind it", "cut", "cut header", "jpeg"],
)
def test_what_is_no_png_is_not_embedded(stage: Path, content: bytes) -> None:
    (stage / "shards" / "grid.png").write_bytes(content)
    with pytest.raises(UserError, match=r"grid\.png: is no picture"):
        png_of(stage, "shards/grid.png", "alt")


def test_a_large_file_is_not_read(stage: Path) -> None:
    with (stage / "shards" / "grid.png").open("wb") as file:
        file.write(PNG)
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="over 67,108,864 bytes"):
        png_of(stage, "shards/grid.png", "alt")


@pytest.mark.parametrize(
    "spoil", [lambda path: path.symlink_to("../../../../private.png"), lambda path: path.write_bytes(huge()), os.mkfifo]
)
def test_a_preview_is_a_picture_of_the_stage(stage: Path, spoil: Callable[[Path], object]) -> None:
    folder = stage / "shards" / "00000-preview"
    folder.mkdir()
    (folder / "preview.json").write_text('{"step": 1, "prompts": ["a"]}')
    (folder / "preview.png").write_bytes(PNG)
    assert read_preview(stage, folder).pictures[0].width == 8
    (folder / "preview.png").unlink()
    spoil(folder / "preview.png")
    with pytest.raises(UserError, match=r"preview\.png: is no picture"):
        read_preview(stage, folder)

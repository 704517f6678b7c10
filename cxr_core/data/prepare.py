"""One image on its way into the Dataset: read, judged, made grey, square and small, encoded."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_core.data.dataset import pixel_sha256
from cxr_core.data.depth import Window
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.images import HEADER_BYTES, Radiograph, UnusableImageError, read_header, read_radiograph
from cxr_core.data.oddities import oddities_of
from cxr_core.data.paths import path_of, read_regular, read_start
from cxr_core.data.png import encode_grey
from cxr_core.data.positions.phrases import place
from cxr_core.data.positions.regions import unit_boxes
from cxr_core.data.problems import ACTIONS, decide, problem
from cxr_core.data.prompts import PromptWriter
from cxr_core.data.settings import PhantomData, PreprocessStage, TableData
from cxr_core.data.transform import Square, clip_box, to_image_frame, upright, upright_box
from cxr_core.errors import UserError

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused unread: 100 megapixels of 16-bit colour with alpha have 0.8 GB before compression."""

_NUM_CHECKED = 8
"""Files that a plan looks at: a set of 16-bit files is of one kind, as a rule."""


@dataclass(frozen=True)
class Prepared:
    """One image ready for its shard, or only problems where it is left out."""

    problems: tuple[dict[str, str], ...]
    row: dict[str, Any] | None = None
    png: bytes = b""
    source_size: tuple[int, int] = (0, 0)
    """Width and height of its file in pixels."""


def prepare(settings: PreprocessStage, row: Mapping[str, Any]) -> Prepared:
    """One row of source.parquet to one image of the Dataset. Raises UserError for an oddity whose policy is "fail"."""
    log = _Log(settings, row)
    try:
        image = read_radiograph(_read(settings, row), Window(settings.data.white, settings.data.black))
    except UnusableImageError as error:
        log.note(error.kind, error.detail)
        return Prepared(tuple(log.problems))
    boxes = _boxes(settings, row, image, log)
    source = _look(settings, image, log)
    height, width = source.shape
    square = Square(width, height, settings.size)
    if square.scale > 1:
        log.note("enlarged", f"{width} x {height} pixels, the Dataset has {settings.size} x {settings.size}")
    if log.left_out:
        return Prepared(tuple(log.problems))
    pixels = square.pixels(source)
    boxes = [square.box(box) for box in boxes]
    made = {
        "boxes": boxes,
        "prompt": _placed_prompt(settings, row, boxes) if boxes else row["prompt"],
        "seed": None,
        "request": "",
        "generation": "",
        "width": settings.size,
        "height": settings.size,
        "pixel_sha256": pixel_sha256(pixels),
        "source_sha256": pixel_sha256(source),
    }
    kept = {name: value for name, value in row.items() if name not in ("file", "signs")}
    return Prepared(tuple(log.problems), kept | made, encode_grey(pixels), (width, height))


def check_white(settings: PreprocessStage, files: Sequence[str]) -> None:
    """Raise UserError where one of a few of the files is `unclear_white` and its policy is fail: before work starts.

    A file that cannot be read is left to `prepare`.
    """
    if settings.policies.unclear_white != "fail" or isinstance(settings.data, PhantomData):
        return
    for file in files[:: max(1, len(files) // _NUM_CHECKED)]:
        with suppress(UnusableImageError, OSError):
            if read_header(read_start(path_of(file), HEADER_BYTES)).depth == 16:
                _refuse_unclear(settings, file)


def _refuse_unclear(settings: PreprocessStage, file: str) -> None:
    png = read_regular(path_of(file), MAX_FILE_BYTES)
    image = read_radiograph(png or b"", Window(settings.data.white, settings.data.black))
    for kind, detail in image.oddities:
        if kind == "unclear_white":
            decide(settings.policies, kind, file=file, detail=detail)


class _Log:
    """The problems of one image, and whether one of them leaves it out."""

    def __init__(self, settings: PreprocessStage, row: Mapping[str, Any]) -> None:
        self.policies, self.image_id, self.file = settings.policies, row["image_id"], row["file"]
        self.problems: list[dict[str, str]] = []
        self.left_out = False

    def note(self, kind: str, detail: str, action: str = "") -> str:
        """Add a problem; returns its policy. Raises UserError where that is "fail"."""
        policy = decide(self.policies, kind, file=f"{self.file} ({self.image_id})", detail=detail)
        self.left_out |= policy == "exclude"
        action = ACTIONS[policy] if policy == "exclude" or not action else action
        self.problems.append(problem(kind, self.image_id, self.file, detail, action))
        return policy


def _read(settings: PreprocessStage, row: Mapping[str, Any]) -> bytes:
    if isinstance(settings.data, PhantomData):
        return _draw(settings.data, row)
    try:
        data = read_regular(path_of(row["file"]), MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise UserError(
            "the image was there when the plan was frozen and is gone",
            where=row["file"],
            hint="put it back, or start a run under another name",
        ) from error
    except OSError as error:
        raise UserError(
            f"the image cannot be read ({error.strerror})",
            where=row["file"],
            hint="check your right to read it and the state of its file system, then run again",
        ) from error
    if data is None:
        raise UnusableImageError("too_large", f"a file of more than {MAX_FILE_BYTES >> 30} GiB")
    return data


def _draw(data: PhantomData, row: Mapping[str, Any]) -> bytes:
    from cxr_core.data.phantom import Case, read_bytes

    return read_bytes(Case.from_row(dict(row) | {"signs": json.loads(row["signs"])}, seed=data.seed), data.size)


def _boxes(settings: PreprocessStage, row: Mapping[str, Any], image: Radiograph, log: _Log) -> list[dict[str, Any]]:
    """The row's boxes in pixels of the image as it is used, those that leave it cut or left out."""
    height, width = image.pixels.shape
    boxes = []
    for box in to_image_frame(row["boxes"], settings.data.box_frame, width, height):
        clipped = clip_box(box, width, height)
        if clipped != box:
            corners = ", ".join(f"{box[name]:g}" for name in "xywh")
            detail = f"{box['finding']} x, y, w, h = {corners} in {width} x {height} pixels"
            log.note("box_outside", detail, "cut" if clipped else "box left out")
        boxes += [clipped] if clipped else []
    if settings.policies.turned != "convert":
        return boxes
    return [upright_box(box, image.orientation, width, height) for box in boxes]


def _placed_prompt(settings: PreprocessStage, row: Mapping[str, Any], boxes: list[dict[str, Any]]) -> str:
    """The row's prompt with the places of boxes that lie in the Dataset's frame, where prompts are to say them."""
    words = settings.prompts.positions
    if words is None:
        return str(row["prompt"])
    placed = [place(box, words) for box in unit_boxes(boxes, settings.size)]
    write = PromptWriter(settings.prompts, findings_of(settings))
    return write(row["labels"], row["view"], row["age"], row["sex"], placed)


def findings_of(settings: PreprocessStage) -> Findings:
    """The vocabulary of the source's labels."""
    return Findings(settings.data.findings) if isinstance(settings.data, TableData) else NIH


def _look(settings: PreprocessStage, image: Radiograph, log: _Log) -> np.ndarray:
    """Note what is odd with an image. Returns its pixels, changed where a policy says `convert`."""
    height, width = image.pixels.shape
    expected, pixels = settings.data.expect_size, image.pixels
    if expected is not None and (width, height) != (expected, expected):
        log.note("wrong_size", f"{width} x {height} pixels, not {expected} x {expected}")
    for kind, detail in image.oddities:
        log.note(kind, detail)
    if image.orientation != 1 and log.note("turned", f"orientation {image.orientation} of EXIF's 1 to 8") == "convert":
        pixels = upright(pixels, image.orientation)
    for kind, detail in oddities_of(pixels):
        if log.note(kind, detail) == "convert" and kind == "inverted":
            pixels = 255 - pixels
    return pixels

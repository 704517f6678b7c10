"""One image on its way into the Dataset: read, judged, made grey, square and small, encoded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from cxr_core.data.dataset import pixel_sha256
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.images import Radiograph, UnusableImageError, read_radiograph
from cxr_core.data.png import encode_grey
from cxr_core.data.positions.phrases import place
from cxr_core.data.positions.regions import unit_boxes
from cxr_core.data.problems import ACTIONS, decide, problem
from cxr_core.data.prompts import PromptWriter
from cxr_core.data.settings import PhantomData, PreprocessStage, TableData
from cxr_core.data.transform import Square, clip_box, to_image_frame
from cxr_core.errors import UserError

NEARLY_BLACK, NEARLY_WHITE = 70, 200
"""Bounds of the mean of 0..255; of 7,483 images of ChestX-ray14 24 are darker and 3 brighter."""


@dataclass(frozen=True)
class Prepared:
    """One image ready for its shard, or only problems where it is left out."""

    problems: tuple[dict[str, str], ...]
    row: dict[str, Any] | None = None
    png: bytes = b""
    enlarged: bool = False


def prepare(settings: PreprocessStage, row: Mapping[str, Any]) -> Prepared:
    """One row of source.parquet to one image of the Dataset. Raises UserError for an oddity whose policy is "fail"."""
    log = _Log(settings, row)
    try:
        image = read_radiograph(_read(settings, row))
    except UnusableImageError as error:
        log.note(error.kind, error.detail)
        return Prepared(tuple(log.problems))
    boxes = _boxes(settings, row, image, log)
    _look(settings, image, log)
    if log.left_out:
        return Prepared(tuple(log.problems))
    height, width = image.pixels.shape
    square = Square(width, height, settings.size)
    pixels = square.pixels(image.pixels)
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
        "source_sha256": pixel_sha256(image.pixels),
    }
    kept = {name: value for name, value in row.items() if name not in ("file", "signs")}
    return Prepared(tuple(log.problems), kept | made, encode_grey(pixels), enlarged=square.scale > 1)


class _Log:
    """The problems of one image, and whether one of them leaves it out."""

    def __init__(self, settings: PreprocessStage, row: Mapping[str, Any]) -> None:
        self.policies, self.image_id, self.file = settings.policies, row["image_id"], row["file"]
        self.problems: list[dict[str, str]] = []
        self.left_out = False

    def note(self, kind: str, detail: str, action: str = "") -> None:
        policy = decide(self.policies, kind, file=f"{self.file} ({self.image_id})", detail=detail)
        self.left_out |= policy == "exclude"
        action = ACTIONS[policy] if policy == "exclude" or not action else action
        self.problems.append(problem(kind, self.image_id, self.file, detail, action))


def _read(settings: PreprocessStage, row: Mapping[str, Any]) -> bytes:
    data = settings.data
    if isinstance(data, PhantomData):
        return _draw(data, row)
    try:
        return Path(row["file"]).read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            "the image was there when the plan was frozen and is gone",
            where=row["file"],
            mend="put it back, or start a run under another name",
        ) from error
    except OSError as error:
        raise UserError(
            f"the image cannot be read ({error.strerror})",
            where=row["file"],
            mend="check your right to read it and the state of its file system, then run again",
        ) from error


def _draw(data: PhantomData, row: Mapping[str, Any]) -> bytes:
    from cxr_core.data.phantom import Case, read_bytes

    return read_bytes(Case.from_row(dict(row) | {"signs": json.loads(row["signs"])}, seed=data.seed), data.size)


def _boxes(settings: PreprocessStage, row: Mapping[str, Any], image: Radiograph, log: _Log) -> list[dict[str, Any]]:
    """The row's boxes in pixels of the image file, those that leave it cut or left out."""
    height, width = image.pixels.shape
    boxes = []
    for box in to_image_frame(row["boxes"], settings.data.box_frame, width, height):
        clipped = clip_box(box, width, height)
        if clipped != box:
            corners = ", ".join(f"{box[name]:g}" for name in "xywh")
            detail = f"{box['finding']} x, y, w, h = {corners} in {width} x {height} pixels"
            log.note("box_outside", detail, "cut" if clipped else "box left out")
        boxes += [clipped] if clipped else []
    return boxes


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


def _look(settings: PreprocessStage, image: Radiograph, log: _Log) -> None:
    height, width = image.pixels.shape
    expected, mean = settings.data.expect_size, float(cv2.mean(image.pixels)[0])
    if expected is not None and (width, height) != (expected, expected):
        log.note("wrong_size", f"{width} x {height} pixels, not {expected} x {expected}")
    for kind, detail in image.oddities:
        log.note(kind, detail)
    if mean < NEARLY_BLACK:
        log.note("nearly_black", f"mean {mean:.1f} of 255")
    if mean > NEARLY_WHITE:
        log.note("nearly_white", f"mean {mean:.1f} of 255")

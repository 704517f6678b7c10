"""X-rays as pictures: contact sheets like films on a light box, and images embedded in the page."""

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr_core.data.images import UnusableImageError, read_header
from cxr_core.data.png import encode_grey, end_of
from cxr_core.errors import UserError
from cxr_core.report.blocks import Picture
from cxr_core.runs.door import Place, printable

LARGEST = 512
"""Pixels a side that an embedded image has at most: what a page can show, at a third of a megabyte."""

_GAP = 6
_SHEET, _INK = 18, 214
_TEXT_SIZE = 13
_LINE = 18
_WEIGHT = 400


def contact_sheet(images: np.ndarray, labels: Sequence[str], columns: int, scale: int = 1) -> np.ndarray:
    """Images in reading order on one dark sheet, each with its label below.

    `images` is uint8 (n, h, w); each is enlarged `scale` times by pixel replication, so that nothing is smoothed over.
    `labels` has n texts, or none for a sheet without text; a label wider than its image ends in an ellipsis.
    Returns uint8 (height, width). Raises UserError for no image, another number of labels or an empty grid.
    """
    _check(images, labels, columns, scale)
    num, height, width = images.shape[0], images.shape[1] * scale, images.shape[2] * scale
    columns = min(columns, num)
    cell = height + (_LINE if any(labels) else 0)
    sheet = np.full((_extent(-(-num // columns), cell), _extent(columns, width)), _SHEET, np.uint8)
    corners = [(_extent(i // columns, cell), _extent(i % columns, width)) for i in range(num)]
    for image, (y, x) in zip(images, corners, strict=True):
        sheet[y : y + height, x : x + width] = enlarge(image, scale)
    return _write(sheet, [(x, y + height, text) for (y, x), text in zip(corners, labels, strict=False)], width)


def cells_of(sheet: np.ndarray, shape: tuple[int, int], row: int, num: int) -> np.ndarray:
    """The first `num` cells of a row of a contact sheet of `shape` rows and columns, as a sheet uint8 (h, w)."""
    height, width = ((side - _GAP) // cells for side, cells in zip(sheet.shape, shape, strict=True))
    return sheet[row * height : (row + 1) * height + _GAP, : num * width + _GAP]


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """uint8 (h, w) to (h * scale, w * scale): every pixel becomes a square of `scale` pixels."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else image


def _check(images: np.ndarray, labels: Sequence[str], columns: int, scale: int) -> None:
    if images.ndim != 3 or images.dtype != np.uint8 or not len(images):
        raise UserError(f"a contact sheet takes uint8 images (n, h, w), n > 0, not {images.dtype} {images.shape}")
    if len(labels) not in (0, len(images)):
        raise UserError(f"{len(labels)} labels for {len(images)} images", mend="give one label an image, or none")
    if columns < 1 or scale < 1:
        raise UserError(f"columns and scale must be at least 1, not {columns} and {scale}")


def _extent(num: int, size: int) -> int:
    """Pixels from the sheet's edge to where cell `num` begins; with the number of all cells, the sheet's extent."""
    return _GAP + num * (size + _GAP)


def _write(sheet: np.ndarray, texts: Sequence[tuple[int, int, str]], width: int) -> np.ndarray:
    for x, y, text in texts:
        cv2.putText(sheet, _fit(text, width), (x, y + _TEXT_SIZE), (_INK,) * 3, _font(), _TEXT_SIZE, _WEIGHT)
    return sheet


def _fit(text: str, width: int) -> str:
    if _length(text) <= width:
        return text
    while text and _length(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _length(text: str) -> int:
    return cv2.getTextSize((1 << 14, 64), text, (0, 0), _font(), _TEXT_SIZE, _WEIGHT)[2]


@cache
def _font() -> cv2.FontFace:
    """The sans serif built into OpenCV, which has letters of most scripts: the same on every machine."""
    return cv2.FontFace("sans")


def as_picture(pixels: np.ndarray, alt: str, *, largest: int = LARGEST, **words: Any) -> Picture:
    """A uint8 (h, w) image as a picture of the page, made smaller by area averaging if a side is above `largest`."""
    height, width = pixels.shape
    if max(height, width) > largest:
        factor = largest / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return Picture(data_uri(encode_grey(pixels)), width, height, alt, **words)


def read_picture(folder: Path, name: str) -> tuple[np.ndarray, bytes]:
    """Pixels of a PNG that a stage lists by its path in the stage's `folder`, and its bytes.

    No other file gets into the page: no link is followed, and nothing but one whole PNG is taken. Raises UserError
    naming it if it is missing, damaged, too large or lies elsewhere.
    """
    try:
        place, file = Place(folder).within(name)
        png = place.read(file, limit=_MOST_BYTES)
        read_header(png)
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, UserError, UnusableImageError) as error:
        what = error.what if isinstance(error, UserError) else getattr(error, "strerror", None) or str(error)
        raise _no_picture(folder / name, what) from error
    if pixels is None or end_of(png) != len(png):
        raise _no_picture(folder / name, "damaged")
    return pixels, png


_MOST_BYTES = 64 << 20


def _no_picture(path: Path, why: str) -> UserError:
    return UserError(
        f"is no picture ({why}), but its stage lists it",
        where=printable(str(path)),
        mend="run the stage again: remove its folder and run",
    )


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"

"""Contact sheets: X-rays beside one another, each with its label, like films on a light box."""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from cxr_core.errors import UserError

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
        raise UserError(f"{len(labels)} labels for {len(images)} images", hint="give one label an image, or none")
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

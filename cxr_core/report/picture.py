"""X-rays as pictures that are embedded in the page."""

from base64 import b64encode
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
        hint="run the stage again: remove its folder and run",
    )


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"

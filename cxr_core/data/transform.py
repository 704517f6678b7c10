"""From a radiograph of any shape to the square of the Dataset; pixels and boxes go through the same transform."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Box = Mapping[str, Any]
"""finding; x, y (upper left corner), w, h in pixels."""


_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""EXIF's orientation: whether rows and columns change places, and then left and right, top and bottom."""


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored (height, width) pixels as a viewer shows them that heeds EXIF's orientation (CIPA DC-008, tag 274)."""
    swap, mirror, flip = _TURNS[orientation]
    pixels = pixels.T if swap else pixels
    pixels = pixels[:, ::-1] if mirror else pixels
    return np.ascontiguousarray(pixels[::-1] if flip else pixels)


def upright_box(box: Box, orientation: int, width: int, height: int) -> dict[str, Any]:
    """A box in stored pixels (of width x height) in the frame of `upright`."""
    swap, mirror, flip = _TURNS[orientation]
    x, y, w, h = (box[name] for name in ("yxhw" if swap else "xywh"))
    width, height = (height, width) if swap else (width, height)
    x = width - x - w if mirror else x
    y = height - y - h if flip else y
    return dict(box) | {"x": x, "y": y, "w": w, "h": h}


@dataclass(frozen=True)
class Square:
    """A width x height image padded with black to a centred square, then resized to size x size pixels."""

    width: int
    height: int
    size: int

    @property
    def side(self) -> int:
        return max(self.width, self.height)

    @property
    def scale(self) -> float:
        """Output pixels per source pixel, the same along both axes."""
        return self.size / self.side

    @property
    def left(self) -> int:
        return (self.side - self.width) // 2

    @property
    def top(self) -> int:
        return (self.side - self.height) // 2

    def pixels(self, source: np.ndarray) -> np.ndarray:
        """uint8 (height, width) -> uint8 (size, size), by area averaging (when enlarging OpenCV interpolates)."""
        right, bottom = self.side - self.width - self.left, self.side - self.height - self.top
        if self.width != self.height:
            source = cv2.copyMakeBorder(source, self.top, bottom, self.left, right, cv2.BORDER_CONSTANT, value=0)
        if self.side == self.size:
            return source
        return cv2.resize(source, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def box(self, box: Box) -> dict[str, Any]:
        """A box of the source image in the frame of the square."""
        corner = {"x": (box["x"] + self.left) * self.scale, "y": (box["y"] + self.top) * self.scale}
        return {"finding": box["finding"], **corner, "w": box["w"] * self.scale, "h": box["h"] * self.scale}


def to_image_frame(boxes: Sequence[Box], frame: int | None, width: int, height: int) -> list[dict[str, Any]]:
    """Boxes given in a frame x frame picture of the image (NIH's 1024) in pixels of the file; None: they are."""
    sx, sy = (width / frame, height / frame) if frame else (1.0, 1.0)
    return [dict(b) | {"x": b["x"] * sx, "y": b["y"] * sy, "w": b["w"] * sx, "h": b["h"] * sy} for b in boxes]


def clip_box(box: Box, width: int, height: int) -> dict[str, Any] | None:
    """The part of a box that is inside the image, the box itself where all of it is, or None where none is."""
    x0, y0 = max(0.0, box["x"]), max(0.0, box["y"])
    x1, y1 = min(float(width), box["x"] + box["w"]), min(float(height), box["y"] + box["h"])
    if x1 <= x0 or y1 <= y0:
        return None
    inside = (x0, y0) == (box["x"], box["y"]) and x1 == box["x"] + box["w"] and y1 == box["y"] + box["h"]
    return dict(box) if inside else {"finding": box["finding"], "x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0}

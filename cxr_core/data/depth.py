"""16-bit values to 8-bit grey: which value is white, which is black, and whether that fits the file."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from cxr_core.data.settings import Percentile

FULL = 65535
"""The largest value of 16 bits."""

FEW_LEVELS = 66
"""Grey levels of 256 that are few: a 14-bit radiograph under the white of 16 bits has 64, a 12-bit one 16. Of 7,645
images of ChestX-ray14 (as originals and at 128 pixels) none has fewer than 81."""

_HALF = 32767
"""Values up to here need 15 bits at most."""
_PLENTY = 0.995
"""Share of the pixels whose levels are counted: letters burned in at full white would add theirs."""
_MOST_ABOVE = 0.05
"""Share of pixels above a stated white over which it is not this file's."""

Oddity = tuple[str, str]
"""A kind of problem, and its detail."""


@dataclass(frozen=True)
class Window:
    """The value of a 16-bit file that becomes white, and the one that becomes black.

    A number; a percentile of each file's own values; `file`: what the file's sBIT chunk says. None as white: it is not
    stated, which is as 65535 but for files that it does not fit.
    """

    white: int | Percentile | Literal["file"] | None = None
    black: int | Percentile = 0


FULL_RANGE = Window()


@dataclass(frozen=True)
class Levels:
    """How many of 256 grey levels an image of `num_pixels` has: all, and the commonest that hold 99.5 % of them."""

    every: int
    commonest: int
    num_pixels: int

    @property
    def are_few(self) -> bool:
        """See `FEW_LEVELS`. An image of few pixels cannot have many: a fourth of its pixels is enough there."""
        return self.every > 1 and self.commonest <= min(FEW_LEVELS, self.num_pixels // 4)


def levels_of(pixels: np.ndarray) -> Levels:
    """The grey levels of a uint8 (height, width) image."""
    numbers = np.sort(cv2.calcHist([pixels], [0], None, [256], [0, 256]).ravel().astype(np.float64))[::-1]
    commonest = int(np.searchsorted(np.cumsum(numbers), _PLENTY * pixels.size)) + 1
    return Levels(int((numbers > 0).sum()), commonest, pixels.size)


def to_eight_bits(pixels: np.ndarray, window: Window, bits: int | None) -> tuple[np.ndarray, list[Oddity]]:
    """uint16 values of any shape to uint8: black to 0, white to 255, between them by the nearest level.

    `bits` is what the file's sBIT chunk says, None where it has none. The oddities are `sixteen_bit` for every file,
    `above_white`, and `unclear_white` where the white does not fit the file.
    """
    least, most = int(pixels.min()), int(pixels.max())
    white, doubt = _white(pixels, window, bits)
    black = _value(pixels, window.black)
    if white <= black and least < most:
        doubt = doubt or f"its white {white} is not above its black {black}"
    table = np.rint((np.arange(FULL + 1) - black) * (255 / max(1, white - black))).clip(0, 255).astype(np.uint8)
    grey = table[pixels]
    oddities = [("sixteen_bit", f"16 bits, values up to {most} of {FULL}{_said(window, black, white)}")]
    if window.white is None and least < most:
        doubt = _unstated(grey, least, most)
    elif not isinstance(window.white, Percentile) and not doubt and most > white:
        num_above = int((pixels > white).sum())
        detail = f"{num_above} of {pixels.size} values are above the white of {white}, up to {most}"
        kind = "unclear_white" if num_above > _MOST_ABOVE * pixels.size else "above_white"
        oddities.append((kind, detail))
    return grey, oddities + ([("unclear_white", doubt)] if doubt else [])


def _white(pixels: np.ndarray, window: Window, bits: int | None) -> tuple[int, str]:
    """The value of white, and why it is doubtful."""
    if window.white is None:
        return FULL, ""
    if window.white != "file":
        return _value(pixels, window.white), ""
    if bits is None:
        return FULL, "`white: file`, but the file has no sBIT chunk that says how many of its 16 bits count"
    return _significant_white(pixels, bits), ""


def _significant_white(pixels: np.ndarray, bits: int) -> int:
    """White of values of which `bits` bits count.

    The standard wants them moved up to the full range, by zeros below or by scaling; many writers leave them where they
    are. A file with one value that can be neither of the former is of the latter, whatever letters are burned in.
    """
    top, below = (1 << bits) - 1, 16 - bits
    upper = pixels >> below
    moved = (upper << below == pixels) | (abs(pixels - upper * (FULL / top)) <= 1)
    return FULL if moved.all() else top


def _value(pixels: np.ndarray, given: int | Percentile) -> int:
    return round(float(np.percentile(pixels, given.percentile))) if isinstance(given, Percentile) else given


def _said(window: Window, black: int, white: int) -> str:
    return "" if window == FULL_RANGE else f"; black is {black} and white {white}"


def _unstated(grey: np.ndarray, least: int, most: int) -> str:
    """Why 65535 is not the white of a file that has these 8-bit levels under it; "" where it may be."""
    levels = levels_of(grey.reshape(len(grey), -1))
    if most > _HALF and not levels.are_few:
        return ""
    said = f"{levels.commonest} of 256 grey levels would hold 99.5 % of them"
    return f"16 bits, values {least} to {most}, no stated white: {said}"

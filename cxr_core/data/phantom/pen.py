"""Pen: draws curves of the body frame as masks of one film."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom.anatomy import Chest, Curve

Field = NDArray[np.float32]
"""A film of floats, shape (size, size)."""
Mask = NDArray[np.uint8]
"""A film of coverage, 0 to 255, shape (size, size)."""

_SUBPIXEL_BITS = 8
_SHARP_PIXELS = 0.3
_COARSE_PIXELS = 5.0
"""Wider blurs than this are done on a film reduced four times: nobody sees the difference, it is ten times faster."""


class Pen:
    """Draws in a film of `size` x `size` pixels on which `chest` is projected."""

    def __init__(self, size: int, chest: Chest) -> None:
        self.size, self.chest = size, chest

    def pixels(self, curve: Curve) -> NDArray[np.int32]:
        """Fixed-point pixel coordinates of a curve of the body frame."""
        scale = 1 << _SUBPIXEL_BITS
        return np.rint(self.chest.project(curve) * (self.size * scale) - 0.5 * scale).astype(np.int32)

    def blank(self) -> Mask:
        return np.zeros((self.size, self.size), np.uint8)

    def mask(self, *curves: Curve, value: int = 255, on: Mask | None = None) -> Mask:
        """The union of some closed curves as an antialiased mask."""
        film = self.blank() if on is None else on
        corners = np.cumsum([len(curve) for curve in curves])[:-1]
        for outline in np.split(self.pixels(np.concatenate(curves)), corners):
            cv2.fillPoly(film, [outline], value, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        return film

    def soften(self, mask: Mask, blur: float) -> Field:
        """The mask as floats in [0, 1] after a Gaussian blur; `blur` is its standard deviation in film widths."""
        sigma = blur * self.size
        if sigma > _COARSE_PIXELS:
            small = cv2.resize(mask, (self.size // 4, self.size // 4), interpolation=cv2.INTER_AREA)
            small = cv2.GaussianBlur(small, (0, 0), sigma / 4, borderType=cv2.BORDER_REPLICATE)
            blurred = cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        elif sigma > _SHARP_PIXELS:
            blurred = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        else:
            blurred = mask
        return blurred.astype(np.float32) * np.float32(1 / 255)

    def patches(self, rng: np.random.Generator, cells: int) -> Field:
        """Cloudy noise in [0, 1], about `cells` clouds across the film."""
        film = np.zeros((self.size, self.size), np.float32)
        for octave, weight in ((1, 0.65), (2, 0.35)):
            grid = rng.integers(0, 256, (cells * octave, cells * octave), np.uint8)
            film += cv2.resize(grid, (self.size, self.size), interpolation=cv2.INTER_CUBIC).astype(
                np.float32
            ) * np.float32(weight / 255)
        return film

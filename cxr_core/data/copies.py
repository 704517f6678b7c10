"""Is one image a copy of another, though mirrored, shifted a little, noisy or compressed? By pixels alone.

A copy is first looked for by its `spectra`, which neither a mirror nor a shift changes much, and then compared pixel by
pixel by `align`. Both see thumbnails of `SIDE` pixels, so that stored sizes may differ.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 64
"""Pixels a side of a thumbnail."""
SPECTRA = "spectra"
"""Name of the embedding that needs no model."""
MOST_SHIFT = 6
"""Pixels of a thumbnail by which a copy may be shifted each way."""
_HIGHEST = 10
"""Waves a side of the highest frequency of a spectrum."""
SPECTRUM_WIDTH = (_HIGHEST + 1) ** 2
"""Numbers a spectrum."""
_FLAT = 0.05
"""Grey values of standard deviation: a relief below is of an image without any structure."""


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (height, width) to uint8 (SIDE, SIDE): area averaging to shrink, bilinear to enlarge."""
    how = cv2.INTER_AREA if image.shape[0] >= SIDE else cv2.INTER_LINEAR
    return cv2.resize(image, (SIDE, SIDE), interpolation=how)


def spectra(thumbnails: np.ndarray) -> np.ndarray:
    """Low frequencies of each thumbnail without their phases: float32 (n, SPECTRUM_WIDTH), of length 1.

    The amplitude of a wave is the same wherever the image is shifted to, and the mean of those of a wave and of its
    mirror image the same for both. Their roots keep a few strong waves from deciding alone.
    """
    return np.stack([_spectrum(thumb) for thumb in thumbnails]) if len(thumbnails) else np.empty((0, SPECTRUM_WIDTH))


def _spectrum(thumb: np.ndarray) -> np.ndarray:
    waves = np.abs(np.fft.rfft2(_band(thumb, 0.7, 8) * _WINDOW))[:, : _HIGHEST + 1]
    rising, falling = waves[: _HIGHEST + 1], np.concatenate([waves[:1], waves[: -_HIGHEST - 1 : -1]])
    found = np.sqrt((rising + falling) / 2).ravel()
    found -= found.mean()
    return (found / max(np.linalg.norm(found), 1e-6)).astype(np.float32)


_WINDOW = np.outer(np.hanning(SIDE), np.hanning(SIDE)).astype(np.float32)


def relief(thumb: np.ndarray) -> np.ndarray:
    """What `align` compares of a thumbnail: float32 (SIDE, SIDE) without its grain and without its broad shading.

    All chest X-rays have the same broad shading; ribs, vessels and devices are a person's own.
    """
    found = _band(thumb, 1.3, 5)
    return found if found.std() > _FLAT else np.zeros_like(found)


def _band(thumb: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """Structure between two sizes, given as standard deviations of Gaussians in pixels."""
    pixels = thumb.astype(np.float32)
    return cv2.GaussianBlur(pixels, (0, 0), fine) - cv2.GaussianBlur(pixels, (0, 0), coarse)


@dataclass(frozen=True, order=True)
class Alignment:
    """How alike two reliefs are at best: their correlation, -1..1, and what was done to the first one for it.

    It was `mirrored`, left for right, and then shifted `right` and `down` by so many pixels of a thumbnail.
    """

    score: float
    mirrored: bool
    right: int
    down: int


def align(one: np.ndarray, other: np.ndarray) -> Alignment:
    """The best alignment of one relief to another, over shifts up to `MOST_SHIFT` and mirrored or not.

    An image without structure is a copy of nothing: 0.
    """
    return max(_shifted(one, other, mirrored=False), _shifted(one[:, ::-1], other, mirrored=True))


def _shifted(one: np.ndarray, other: np.ndarray, *, mirrored: bool) -> Alignment:
    inner = np.ascontiguousarray(one[MOST_SHIFT:-MOST_SHIFT, MOST_SHIFT:-MOST_SHIFT])
    if not inner.any() or not other.any():
        return Alignment(0.0, mirrored, 0, 0)
    found = cv2.matchTemplate(other, inner, cv2.TM_CCOEFF_NORMED)
    down, right = np.unravel_index(int(found.argmax()), found.shape)
    score = float(np.clip(found[down, right], -1, 1))
    return Alignment(score, mirrored, int(right) - MOST_SHIFT, int(down) - MOST_SHIFT)


def best_of(one: np.ndarray, others: Iterable[np.ndarray]) -> tuple[int, Alignment]:
    """Which of `others` one relief aligns to best, by its place, and how."""
    found = [align(one, other) for other in others]
    place = max(range(len(found)), key=lambda i: found[i].score)
    return place, found[place]

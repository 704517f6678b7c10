"""Copies as a model might make them: what a search for copies has to find before its word counts."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

_SHIFT = 0.06
"""Largest shift each way, of the image's side."""
_NOISE = 10.0
"""Standard deviation, grey values."""
_JPEG = 30
"""Quality, of 100."""


def _exact(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return image


def _mirrored(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def _shifted(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    height, width = image.shape
    right, down = draw.uniform(-_SHIFT, _SHIFT, 2) * (width, height)
    moved = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(image, moved, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _noisy(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return np.clip(image + draw.normal(0, _NOISE, image.shape), 0, 255).astype(np.uint8)


def _compressed(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


PLANTS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "exact": _exact,
    "mirrored": _mirrored,
    "shifted": _shifted,
    "noisy": _noisy,
    "JPEG": _compressed,
}
"""Each makes a copy of a uint8 (height, width) image; the generator decides by how much it is changed."""

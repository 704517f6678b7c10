"""What is odd with the grey pixels of a radiograph, as far as pixels can tell."""

import cv2
import numpy as np

from cxr_core.data.depth import Oddity, levels_of

NEARLY_BLACK, NEARLY_WHITE = 70, 200
"""Bounds of the mean of 0..255; of 7,483 images of ChestX-ray14 24 are darker and 3 brighter."""

_TYPICAL = np.array(
    [
        [-27, -23, -15, 1],
        [-4, -1, -8, -2],
        [4, 1, -15, -2],
        [1, -1, -13, 4],
        [-4, -1, -5, 11],
        [-8, 2, 7, 17],
        [-13, 8, 17, 23],
        [-14, 11, 22, 25],
    ],
    np.float64,
)
"""The left half of the mean frontal radiograph at 8 x 8 pixels, in hundredths, made symmetrical: dark corners and
lungs, bright spine and abdomen. From every second of the 7,498 images of patients 1336-3266 of ChestX-ray14."""

INVERTED = -0.3
"""Correlation with the typical radiograph below which an image is named. Of those 7,498 images 4 are: one negative, and
three upside down or with wide white borders; of 147 originals the one negative alone. Turned into negatives, 98.8 % of
the 7,498 are named."""

_LEAST_CONTRAST = 10
"""Standard deviation of the 8 x 8 pixels below which there is no picture to compare."""


def oddities_of(pixels: np.ndarray) -> list[Oddity]:
    """Pairs (kind, detail) for uint8 (height, width) pixels; of a flat image nothing else is said."""
    height, width = pixels.shape
    levels = levels_of(pixels)
    if levels.every == 1:
        return [("flat", f"{width} x {height} pixels, all of grey {int(pixels[0, 0])}")]
    found: list[Oddity] = []
    mean, likeness = float(cv2.mean(pixels)[0]), typical_likeness(pixels)
    if levels.are_few:
        found.append(("few_grey_levels", f"{levels.commonest} of 256 grey levels hold 99.5 % of the pixels"))
    if likeness < INVERTED:
        found.append(("inverted", f"correlation {likeness:.2f} with a typical radiograph"))
    if mean < NEARLY_BLACK:
        found.append(("nearly_black", f"mean {mean:.1f} of 255"))
    if mean > NEARLY_WHITE:
        found.append(("nearly_white", f"mean {mean:.1f} of 255"))
    return found


def typical_likeness(pixels: np.ndarray) -> float:
    """Correlation, -1 to 1, of uint8 (height, width) pixels at 8 x 8 with the mean frontal radiograph.

    0 where there is hardly a picture.
    """
    small = cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64)
    if small.std() < _LEAST_CONTRAST:
        return 0.0
    typical = np.hstack([_TYPICAL, _TYPICAL[:, ::-1]])
    return float(np.corrcoef(small.ravel(), typical.ravel())[0, 1])

"""One radiograph: attenuation summed along the rays, then film response, grain, border and marker.

To give the same pixels on any machine the arrays know only integer drawing and blurring (OpenCV's 8-bit routines are
exact), and +, -, *, / of IEEE floats; every curve is a table computed with scalars.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom import skeleton
from cxr_core.data.phantom.anatomy import SIDES, Chest, Curve, chest_of, ellipse, smooth, strip
from cxr_core.data.phantom.case import Case, stream
from cxr_core.data.phantom.film import develop
from cxr_core.data.phantom.pen import Field, Mask, Pen
from cxr_core.data.phantom.signs import Layer, place
from cxr_core.data.phantom.vessels import vessel_tree

MIN_DRAWN = 256
"""Smaller images are drawn at this size and averaged down, as a film is when it is read coarsely."""


def draw(case: Case, size: int = 256) -> NDArray[np.uint8]:
    """The radiograph of `case`, uint8 of shape (size, size), 0 black to 255 white."""
    drawn = size * -(-MIN_DRAWN // size)
    pen = Pen(drawn, chest_of(case))
    image = develop(case, _attenuation(case, pen), pen)
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def read_bytes(case: Case, size: int = 256) -> bytes:
    """The PNG that `write_layout` writes for `case`, without the file."""
    done, data = cv2.imencode(".png", draw(case, size))
    if not done:
        raise RuntimeError(f"OpenCV could not encode the image of {case.image_id}")
    return data.tobytes()


def _attenuation(case: Case, pen: Pen) -> Field:
    """Attenuation along each ray: 0 is bare film, about 0.2 lung, 0.55 chest wall, 1 mediastinum."""
    chest = pen.chest
    belly = pen.mask(*(chest.belly(side) for side in SIDES))
    lungs = {side: np.minimum(pen.mask(chest.lung(side)), 255 - belly) for side in SIDES}
    air, vessels = _air(pen, lungs), vessel_tree(case, pen)
    heart = pen.mask(chest.heart())
    solid = _soft_tissue(case, pen, belly) + _mediastinum(pen, heart)
    solidity = pen.soften(heart, 0.004)
    air, vessels = air * (1 - 0.80 * solidity), vessels * (1 - 0.75 * solidity)
    gas = np.zeros_like(air)
    for layer in (layer for sign in case.signs for layer in place(case, sign, chest).layers):
        effect = _strength(case, pen, layer, lungs)
        if layer.effect == "opacity":
            air, vessels = air * (1 - effect), vessels * (1 - 0.8 * effect)
        elif layer.effect == "collapse":
            air, gas, vessels = air * (1 + effect), gas + 0.10 * effect, vessels * (1 - np.minimum(effect * 8, 1))
        else:
            solid = solid + (effect if layer.effect == "tissue" else -effect)
    return solid - 0.42 * chest.aeration * air + vessels - gas + skeleton.attenuation(pen, belly)


def _strength(case: Case, pen: Pen, layer: Layer, lungs: dict[str, Mask]) -> Field:
    field = pen.soften(pen.mask(*layer.outlines), layer.blur)
    if layer.grain:
        patches = pen.patches(stream(case.seed, case.image_id, "grain", layer.cells), layer.cells)
        field = field * (1 - layer.grain + 2 * layer.grain * patches)
        field = np.minimum(field, 1)
    if layer.within != "film":
        inside = lungs[layer.within] if layer.within in lungs else np.maximum(lungs["right"], lungs["left"])
        field = field * pen.soften(inside, 0.0)
    return field * np.float32(layer.strength)


def _air(pen: Pen, lungs: dict[str, Mask]) -> Field:
    """Air along each ray, 0 to 1: a lung is thin at its edges."""
    both = np.maximum(lungs["right"], lungs["left"])
    return pen.soften(both, 0.0025) * (0.45 + 0.55 * pen.soften(both, 0.030))


def _soft_tissue(case: Case, pen: Pen, belly: Mask) -> Field:
    """Chest wall, shoulders, arms, neck, breasts and what lies under the diaphragm."""
    chest, body = pen.chest, pen.chest.body
    torso, arms = pen.mask(_torso(chest)), pen.mask(*(_arm(chest, s) for s in SIDES.values()))
    fat = 0.045 * body.habitus
    tissue = (0.30 + fat) * pen.soften(torso, 0.004) + 0.24 * pen.soften(torso, 0.060)
    tissue = tissue + 0.34 * pen.soften(arms, 0.004) * (1 - pen.soften(torso, 0.004))
    tissue = tissue + (0.17 * pen.soften(belly, 0.0035) + 0.11 * pen.soften(belly, 0.030)) * pen.soften(torso, 0.030)
    stomach = ellipse(0.135, chest.base - chest.lift[1] - chest.dome[1] + 0.062, 0.048, 0.020 + 0.014 * body.bubble)
    tissue = tissue - 0.24 * body.bubble * pen.soften(pen.mask(stomach), 0.006)
    return tissue + (0.10 * body.breast * _breasts(pen) if case.sex == "F" else 0)


def _torso(chest: Chest) -> Curve:
    """Outline of neck, shoulders and trunk."""
    b, w = chest.body, chest.half_width
    wall = w + 0.045 + 0.032 * b.habitus
    slope = b.shoulder + (-0.025 if chest.view == "AP" else 0)
    half = [(0.085, -0.3), (0.085, 0.0), (0.105, 0.055), (0.20, 0.088 + slope), (0.33, 0.110 + slope)]
    half += [(0.42, 0.155 + slope), (0.445, 0.25), (wall + 0.035, 0.36), (wall + 0.008, 0.46), (wall + 0.004, 0.65)]
    half += [(wall + 0.012, 0.85), (wall + 0.020, 1.3)]
    side = smooth(half)
    return np.concatenate([side, (side * (-1, 1))[::-1]])


def _arm(chest: Chest, s: int) -> Curve:
    """Upper arm: held away from the chest before an upright film, beside it in bed."""
    slope = chest.body.shoulder
    if chest.view == "AP":
        middle = [(0.40, 0.15 + slope), (0.475, 0.30), (0.525, 0.55), (0.56, 1.3)]
    else:
        middle = [(0.38, 0.17 + slope), (0.48, 0.24), (0.60, 0.37), (0.85, 0.62)]
    return strip(smooth([(s * x, y) for x, y in middle]), 0.135 + 0.02 * chest.body.habitus)


def _breasts(pen: Pen) -> Field:
    """Soft above, with a fold below."""
    y = pen.chest.down(0.80)
    shapes = [ellipse(s * 0.235, y - 0.03, 0.150, 0.125) for s in SIDES.values()]
    hidden = [ellipse(s * 0.225, y - 0.135, 0.21, 0.11) for s in SIDES.values()]
    return pen.soften(pen.mask(*shapes), 0.009) * (1 - pen.soften(pen.mask(*hidden), 0.045))


def _mediastinum(pen: Pen, heart: Mask) -> Field:
    """Great vessels, aortic knob, heart, hila; the windpipe dark among them."""
    chest = pen.chest
    m, y = chest.mediastinum, chest.down
    half = [(0.036, -0.3), (0.038, 0.02), (m * 0.92, y(0.12)), (m, y(0.30)), (m * 0.96, y(0.60)), (m * 0.9, 1.3)]
    right = smooth([(-x * (1.08 if v > 0.1 else 1), v) for x, v in half])
    column = np.concatenate([smooth(half), right[::-1]])
    knob = ellipse(m - 0.002, y(0.31), chest.body.knob, chest.body.knob * 1.1)
    aorta = strip(smooth([(m + 0.010, y(0.31)), (m + 0.004, y(0.55)), (0.030, y(1.0)), (0.026, 1.2)]), 0.040)
    field = 0.17 * pen.soften(pen.mask(column, knob), 0.005)
    field = field + 0.055 * pen.soften(pen.mask(aorta), 0.004)
    field = field + 0.08 * pen.soften(heart, 0.003) + 0.10 * pen.soften(heart, 0.030)
    return field - 0.13 * pen.soften(pen.mask(*_airways(chest)), 0.0035)


def _airways(chest: Chest) -> list[Curve]:
    y = chest.down
    trachea = smooth([(0.0, -0.1), (0.0, 0.05), (-0.004, y(0.15)), (-0.006, y(0.33))])
    right = smooth([(-0.008, y(0.325)), (-0.030, y(0.40)), (-0.055, y(0.47))])
    left = smooth([(-0.002, y(0.325)), (0.030, y(0.385)), (0.068, y(0.44))])
    return [strip(trachea, 0.034), strip(right, 0.022), strip(left, 0.018)]

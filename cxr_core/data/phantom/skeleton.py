"""The bones of a frontal chest film."""

import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom.anatomy import SIDES, Chest, Curve, ellipse, smooth, strip
from cxr_core.data.phantom.pen import Field, Mask, Pen

NUM_RIBS = 12
FRONT = slice(1, 7)
"""Ribs whose anterior part has bone enough to be seen."""
NUM_VERTEBRAE = 17
_BODY = np.array([(-1, 0), (1, 0), (0.90, 0.5), (1, 1), (-1, 1), (-0.90, 0.5)])
"""A vertebral body in half widths and heights."""
_PROCESS = np.array([(-0.004, 0.50), (0.004, 0.50), (0.006, 0.98), (-0.006, 0.98)])
"""A spinous process in film widths and vertebral heights."""


def attenuation(pen: Pen, belly: Mask) -> Field:
    """Attenuation that the skeleton adds, shape (size, size); ribs fade over the `belly`."""
    return _ribs(pen, belly) + _shoulder_girdle(pen) + _spine(pen)


def _ribs(pen: Pen, belly: Mask) -> Field:
    """Ribs as tubes: a bright cortex round a paler core, so that front and back ribs cross as on a film."""
    chest, back, front = pen.chest, pen.blank(), pen.blank()
    widths = chest.body.rib_width * np.minimum(1.0, 0.75 + 0.06 * np.arange(NUM_RIBS))
    for side in SIDES:
        ribs = np.stack([back_rib(chest, side, number) for number in range(NUM_RIBS)])
        _tubes(pen, back, ribs, widths)
        _tubes(
            pen,
            front,
            np.stack([front_rib(chest, side, number, ribs[number]) for number in range(NUM_RIBS)[FRONT]]),
            1.15 * widths[FRONT],
        )
    return (1 - 0.55 * pen.soften(belly, 0.010)) * (
        0.120 * pen.soften(back, 0.0018) + 0.070 * pen.soften(front, 0.0030)
    )


def _tubes(pen: Pen, film: Mask, paths: Curve, widths: NDArray[np.float64], *, core: int = 155) -> None:
    """Tubes along paths of shape (n, points, 2)."""
    pen.mask(*strip(paths, widths[:, None]), on=film)
    pen.mask(*strip(paths, 0.62 * widths[:, None]), value=core, on=film)


def _tube(pen: Pen, film: Mask, path: Curve, width: float, *, core: int) -> None:
    _tubes(pen, film, path[None], np.array([width]), core=core)


def back_rib(chest: Chest, side: str, number: int) -> Curve:
    """Axis of a posterior rib from the spine, a little up, then down along the chest wall."""
    s = SIDES[side]
    start = chest.apex - 0.020 + number * 0.0635 * chest.height / 0.70
    drop = 0.045 + 0.0085 * number + chest.body.rib_slope
    wall = abs(chest.width_at(side, min(start + 1.4 * drop, chest.base))) + 0.006
    wall = wall if number else 0.62 * chest.half_width
    points = [
        (0.030, start + 0.010),
        (0.075, start - 0.006),
        (0.40 * wall, start - 0.002),
        (0.68 * wall, start + 0.32 * drop),
    ]
    points += [(0.88 * wall, start + 0.78 * drop), (wall, start + 1.40 * drop)]
    return smooth([(s * x, y) for x, y in points])


def front_rib(chest: Chest, side: str, number: int, rib: Curve) -> Curve:
    """Axis of the anterior part of `rib` from the chest wall down towards the breastbone, ending at its cartilage."""
    s = SIDES[side]
    wall, y = abs(rib[-1, 0]), rib[-1, 1]
    reach = (0.50 - 0.035 * abs(number - 3)) * wall
    fall = 0.050 + 0.010 * number
    points = [
        (wall, y),
        (0.97 * wall, y + 0.35 * fall),
        (wall - 0.45 * reach, y + 0.85 * fall),
        (wall - reach, y + fall),
    ]
    return smooth([(s * x, v) for x, v in points])


def _shoulder_girdle(pen: Pen) -> Field:
    """Collar bones, shoulder blades and the heads of the upper arms."""
    chest = pen.chest
    film, blades = pen.blank(), pen.blank()
    for s in SIDES.values():
        _tube(pen, film, _clavicle(chest, s), 0.021, core=165)
        _tube(pen, film, _humerus(chest, s), 0.038, core=150)
        pen.mask(_head(chest, s), value=190, on=film)
        pen.mask(_blade(chest, s), value=150, on=blades)
        _tube(pen, blades, _blade_spine(chest, s), 0.014, core=200)
    return 0.150 * pen.soften(film, 0.0022) + 0.075 * pen.soften(blades, 0.0025)


def _lift(chest: Chest) -> float:
    return chest.body.shoulder + (-0.018 if chest.view == "AP" else 0.0)


def _clavicle(chest: Chest, s: int) -> Curve:
    y = chest.apex + 0.062 + (-0.030 if chest.view == "AP" else 0)
    lift = _lift(chest)
    return smooth(
        [
            (s * 0.030, y + 0.012),
            (s * 0.10, y - 0.002),
            (s * 0.20, y - 0.030),
            (s * 0.29, y - 0.045 + lift),
            (s * 0.37, y - 0.030 + lift),
        ]
    )


def _head(chest: Chest, s: int) -> Curve:
    return ellipse(s * 0.440, 0.190 + _lift(chest), 0.034, 0.036)


def _humerus(chest: Chest, s: int) -> Curve:
    end = (0.56, 0.65) if chest.view == "AP" else (0.72, 0.46)
    knee = (0.485, 0.32) if chest.view == "AP" else (0.545, 0.29)
    return smooth([(s * 0.440, 0.200 + _lift(chest)), (s * knee[0], knee[1]), (s * end[0], end[1])])


def _blade(chest: Chest, s: int) -> Curve:
    inward = 0.055 if chest.view == "AP" else 0.0
    w, lift = chest.half_width - inward, _lift(chest)
    corners = [
        (w - 0.055, 0.150 + lift),
        (w - 0.035, 0.30),
        (w + 0.005, 0.425),
        (w + 0.030, 0.34),
        (w + 0.070, 0.215 + lift),
    ]
    return smooth([(s * x, y) for x, y in [*corners, (w + 0.02, 0.150 + lift)]], closed=True)


def _blade_spine(chest: Chest, s: int) -> Curve:
    lift = _lift(chest)
    return smooth([(s * (chest.half_width - 0.04), 0.195 + lift), (s * 0.36, 0.150 + lift), (s * 0.415, 0.140 + lift)])


def _spine(pen: Pen) -> Field:
    """Vertebral bodies with the discs between them, pedicles and spinous processes."""
    bodies, pedicles, processes = [], [], []
    y = -0.02
    for number in range(NUM_VERTEBRAE):
        height, half = 0.044 + 0.0016 * number, 0.027 + 0.0009 * number
        x = pen.chest.spine(y + height / 2)
        bodies.append(np.array([x, y]) + _BODY * (half, height))
        pedicles += [ellipse(x + s * 0.62 * half, y + 0.36 * height, 0.0050, 0.0085, points=10) for s in (-1, 1)]
        processes.append(np.array([x, y]) + _PROCESS * (1, height))
        y += height + 0.0075
    details = pen.mask(*processes, on=pen.mask(*pedicles, value=170))
    return 0.075 * pen.soften(pen.mask(*bodies), 0.0022) + 0.065 * pen.soften(details, 0.0018)

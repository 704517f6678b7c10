"""The vessels of the lungs: a tree on each side that fans out from the hilum."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom.anatomy import SIDES, Chest, Curve, ellipse, smooth, strip
from cxr_core.data.phantom.case import Case, stream
from cxr_core.data.phantom.pen import Field, Pen

_TRUNKS = (-1.40, -1.05, -0.62, -0.12, 0.34, 0.70, 1.02, 1.35)
"""Directions of the first branches: 0 is sideways, +pi/2 is down."""
_FORKS = ((0.35, 1, 0.60), (0.65, -1, 0.50), (0.85, 1, 0.36))
"""Where along a branch the next ones leave it, to which side, and how long they are in lengths of their parent."""
_TINTS = (255, 195, 130)
"""Brightness of the three generations."""


@dataclass(frozen=True)
class Branches:
    """One generation of n branches of one lung."""

    paths: Curve
    """Shape (n, points, 2)."""
    angle: NDArray[np.float64]
    reach: NDArray[np.float64]
    width: NDArray[np.float64]


def vessel_tree(case: Case, pen: Pen) -> Field:
    """Attenuation that the vessels add, shape (size, size). The tree is the patient's; its calibre is the film's."""
    film, chest = pen.blank(), pen.chest
    rng = stream(case.seed, case.patient_id, "vessels")
    trees = [_tree(chest, side, rng) for side in SIDES]
    for generation in (2, 1, 0):
        for tree in trees:
            _draw(pen, film, tree[generation], tint=_TINTS[generation])
    calibre = pen.soften(film, 0.0018 + 0.0014 * max(0.0, chest.vessel_width - 1))
    lungs = pen.soften(pen.mask(*(chest.lung(side) for side in SIDES)), 0.008)
    return 0.095 * calibre * lungs + 0.105 * pen.soften(pen.mask(*_hila(chest)), 0.011)


def _draw(pen: Pen, film: NDArray[np.uint8], branches: Branches, *, tint: int) -> None:
    taper = np.linspace(1, 0.40, branches.paths.shape[1])
    widths = np.maximum(branches.width[:, None] * taper * pen.chest.vessel_width, 0.0016)
    pen.mask(*strip(branches.paths, widths), value=tint, on=film)


def _hila(chest: Chest) -> list[Curve]:
    scale = 0.6 + 0.4 * chest.vessel_width
    blobs = []
    for side, s in SIDES.items():
        x, y = chest.hilum(side)
        blobs += [ellipse(x, y, 0.018 * scale, 0.032 * scale)]
        blobs += [ellipse(x + s * 0.008, y + 0.036, 0.012 * scale, 0.030 * scale)]
    return blobs


def _tree(chest: Chest, side: str, rng: np.random.Generator) -> list[Branches]:
    """Three generations of branches of one lung."""
    s, count = SIDES[side], len(_TRUNKS)
    angle = np.array(_TRUNKS) + rng.normal(0, 0.09, count)
    reach = (0.18 + 0.12 * np.abs(np.sin(angle))) * rng.uniform(0.8, 1.15, count) * chest.height / 0.70
    width = np.where(angle > 0.3, 0.0130, 0.0085) * rng.uniform(0.8, 1.1, count)
    start = np.tile(np.array(chest.hilum(side)), (count, 1))
    tree = [_grow(start, angle, reach, width, s, rng)]
    for _ in range(2):
        tree.append(_fork(tree[-1], s, rng))
    return tree


def _grow(
    start: Curve,
    angle: NDArray[np.float64],
    reach: NDArray[np.float64],
    width: NDArray[np.float64],
    s: int,
    rng: np.random.Generator,
) -> Branches:
    bend = rng.normal(0, 0.20, (len(angle), 3)).cumsum(axis=1) + angle[:, None]
    steps = np.stack([s * np.cos(bend), np.sin(bend)], axis=-1) * (reach[:, None, None] / 3)
    knots = np.concatenate([start[:, None], start[:, None] + steps.cumsum(axis=1)], axis=1)
    return Branches(smooth(knots, steps=3), bend[:, 1], reach, width)


def _fork(parent: Branches, s: int, rng: np.random.Generator) -> Branches:
    count, last = len(parent.angle), parent.paths.shape[1] - 1
    starts, angles, reaches, widths = [], [], [], []
    for where, sign, length in _FORKS:
        starts.append(parent.paths[:, round(where * last)])
        angles.append(parent.angle + sign * rng.uniform(0.35, 0.85, count))
        reaches.append(parent.reach * length * rng.uniform(0.7, 1.15, count))
        widths.append(parent.width * 0.58)
    start, angle, reach, width = (np.concatenate(part) for part in (starts, angles, reaches, widths))
    return _grow(start, angle, reach, width, s, rng)

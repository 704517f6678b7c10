"""What each of the 14 findings looks like: where it lies in a given chest, and what it does to the X-rays there.

A sign is a list of layers in the body frame. Appearances follow the Fleischner Society's glossary of terms for thoracic
imaging (Hansell et al., Radiology 2008): a mass is larger than 3 cm, a nodule is not; a film is about 35 cm wide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom.anatomy import SIDES, Chest, Curve, chest_of, smooth, strip
from cxr_core.data.phantom.case import Case, Sign, stream

BOX_FRAME = 1024
"""Boxes are given in the frame of a 1024 x 1024 film, as in BBox_List_2017.csv."""


@dataclass(frozen=True)
class Layer:
    """One effect over the union of some outlines."""

    outlines: tuple[Curve, ...]
    effect: Literal["opacity", "tissue", "lucency", "collapse"]
    """opacity takes away a share of the lung's air; tissue adds attenuation; lucency takes it away; collapse is
    air outside the lung: darker than lung, and without vessels."""
    strength: float
    blur: float = 0.0
    """Standard deviation of the edge in film widths."""
    grain: float = 0.0
    """0 is even, 1 is all patches."""
    cells: int = 24
    """Patches across the film."""
    within: str = "lungs"
    """"film", "lungs", or one lung: "right" or "left"."""


@dataclass(frozen=True)
class PlacedSign:
    """A sign in its place: its layers and the points that its box must hold."""

    layers: tuple[Layer, ...]
    extent: Curve


Place = Callable[[Chest, float, str, np.random.Generator], PlacedSign]


def place(case: Case, sign: Sign, chest: Chest) -> PlacedSign:
    """`sign` in `chest`. It keeps its place in the patient from its onset on, whatever the pose."""
    rng = stream(case.seed, case.patient_id, sign.finding, sign.side, sign.onset)
    return PLACES[sign.finding](chest, sign.severity, sign.side, rng)


def box_of(case: Case, sign: Sign) -> tuple[float, float, float, float]:
    """x, y, w, h of the sign's bounding box in the 1024-px frame, cut at the film's edge."""
    chest = chest_of(case)
    points = np.clip(chest.project(place(case, sign, chest).extent), 0, 1) * BOX_FRAME
    (x, y), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return round(x, 3), round(y, 3), round(right - x, 3), round(bottom - y, 3)


def blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, *, rough: float = 0.15) -> Curve:
    """An ellipse with an uneven edge."""
    radii = 1 + rough * rng.uniform(-1, 1, 9)
    knots = [(i * 2 * math.pi / 9, r) for i, r in enumerate(radii)]
    return smooth([(x + rx * r * math.cos(a), y + ry * r * math.sin(a)) for a, r in knots], closed=True, steps=4)


def _spot(
    chest: Chest, side: str, rng: np.random.Generator, *, down: tuple[float, float], across: tuple[float, float]
) -> tuple[float, float]:
    """A point in a lung: `down` from apex (0) to angle (1), `across` from the midline (0) to the chest wall (1)."""
    y = chest.down(rng.uniform(*down))
    return chest.width_at(side, y) * rng.uniform(*across), y


def _sides(side: str) -> tuple[str, ...]:
    return tuple(SIDES) if side == "both" else (side,)


def _padded(curve: Curve, margin: float) -> Curve:
    low, high = curve.min(axis=0) - margin, curve.max(axis=0) + margin
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def _above(curve: Curve, y: float) -> Curve:
    return curve[curve[:, 1] <= y]


def _below(curve: Curve, y: float) -> Curve:
    return curve[curve[:, 1] >= y]


def _cardiomegaly(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    right, left = chest.heart_extent
    extent = np.array([(right, chest.down(0.42)), (left, chest.base - 0.3 * chest.dome[1])])
    return PlacedSign((), _padded(extent, 0.012))


def _effusion(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """Fluid: level with the diaphragm's side, a meniscus that climbs the chest wall, no costophrenic angle."""
    s, w = SIDES[side], chest.half_width
    dome = chest.diaphragm(side)
    low, top = dome[:, 1].max(), dome[:, 1].min()
    lateral = top + 0.035 - (0.06 + 0.34 * severity) * chest.height * rng.uniform(0.9, 1.1)
    medial = max(lateral + 0.035, top - 0.40 * severity * chest.height + 0.06)
    meniscus = [(1.04, lateral), (0.97, lateral + 0.03), (0.84, medial - 0.012), (0.55, medial + 0.012), (0.05, medial)]
    curve = smooth([(s * w * x, y) for x, y in meniscus])
    fluid = np.concatenate([curve, [(0.0, low + 0.03), (s * w * 1.04, low + 0.03)]])
    layers = (
        Layer((fluid,), "opacity", 0.95, blur=0.008, within=side),
        Layer((fluid,), "tissue", 0.24, blur=0.010, within=side),
    )
    inner = np.array([(s * w * 0.10, lateral), (s * w * 1.0, low)])
    return PlacedSign(layers, _padded(inner, 0.012))


def _edema(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """Bat-wing haze about both hila, thick vessels (of the chest's shape), Kerley B lines at both bases."""
    layers: list[Layer] = []
    for lung, s in SIDES.items():
        x, y = chest.hilum(lung)
        wing = blob(rng, x + s * 0.075, y + 0.055, 0.115 + 0.03 * severity, 0.165 + 0.03 * severity)
        core = blob(rng, x + s * 0.02, y + 0.03, 0.060, 0.095)
        layers += [
            Layer((wing,), "opacity", 0.16 + 0.52 * severity, blur=0.042, grain=0.45, cells=40),
            Layer((core,), "opacity", 0.14 + 0.38 * severity, blur=0.018, grain=0.25, cells=40),
            Layer(tuple(_kerley(chest, lung, rng)), "tissue", 0.10 + 0.10 * severity, blur=0.0012),
        ]
    whole = np.concatenate([chest.lung("right"), chest.lung("left")])
    layers.append(
        Layer((whole[: len(whole) // 2], whole[len(whole) // 2 :]), "opacity", 0.05 + 0.16 * severity, blur=0.02)
    )
    return PlacedSign(tuple(layers), whole)


def _kerley(chest: Chest, side: str, rng: np.random.Generator) -> list[Curve]:
    lines = []
    for i in range(6):
        y = chest.down(0.66 + 0.045 * i + rng.uniform(0, 0.01))
        wall = chest.width_at(side, y)
        ends = [(wall * 0.99, y), (wall * (0.99 - rng.uniform(0.06, 0.11)), y + rng.uniform(-0.006, 0.002))]
        lines.append(strip(np.array(ends), 0.0040))
    return lines


def _mass(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A dense, lobulated ball of 3.2 to 7 cm."""
    radius = 0.046 + 0.052 * severity
    x, y = _spot(chest, side, rng, down=(0.22, 0.68), across=(0.45, 0.72))
    ball = blob(rng, x, y, radius, radius * rng.uniform(0.85, 1.15), rough=0.13)
    core = blob(rng, x, y, 0.6 * radius, 0.6 * radius)
    layers = (
        Layer((ball,), "opacity", 0.88, blur=0.0045),
        Layer((core,), "tissue", 0.09, blur=0.3 * radius, within="film"),
    )
    return PlacedSign(layers, _padded(ball, 0.006))


def _nodule(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A round spot of 1.2 to 2.8 cm."""
    radius = 0.017 + 0.023 * severity
    x, y = _spot(chest, side, rng, down=(0.18, 0.72), across=(0.45, 0.86))
    ball = blob(rng, x, y, radius, radius, rough=0.06)
    return PlacedSign(
        (Layer((ball,), "opacity", 0.82, blur=0.0030), Layer((ball,), "tissue", 0.04, blur=0.004)), _padded(ball, 0.006)
    )


def _pneumothorax(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A dark rim without vessels from the apex down, behind the fine white line of the visceral pleura."""
    s, m = SIDES[side], chest.mediastinum
    gap = 0.024 + 0.110 * severity * rng.uniform(0.9, 1.1)
    end = chest.down(0.45 + 0.52 * severity)
    wall = _above(chest.outer(side), end)
    reach = np.clip((end - wall[:, 1]) / (0.30 * chest.height), 0, 1)
    deep = 1 + 0.45 * np.clip((chest.down(0.25) - wall[:, 1]) / (0.25 * chest.height), 0, 1)
    target = np.stack([np.full(len(wall), s * (m + 0.03)), np.full(len(wall), chest.down(0.50))], axis=1)
    away = target - wall
    length = np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2)[:, None]
    pleura = wall + away / length * np.minimum(gap * reach * deep, 0.85 * length[:, 0])[:, None]
    pocket = np.concatenate([wall + (wall - target) * 0.08, pleura[::-1]])
    layers = (
        Layer((pocket,), "collapse", 0.24 + 0.10 * severity, blur=0.0015, within=side),
        Layer((strip(pleura, 0.0055),), "tissue", 0.20, blur=0.0012, within=side),
        Layer((_hull_to(pleura, target[0]),), "opacity", 0.06 + 0.16 * severity, blur=0.01, within=side),
    )
    return PlacedSign(layers, np.concatenate([wall, pleura]))


def _hull_to(path: Curve, point: Curve) -> Curve:
    return np.concatenate([path, point[None]])


def _atelectasis(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """Volume loss: the diaphragm stands high (of the chest's shape) under long plates of collapsed lung."""
    s, dome = SIDES[side], chest.diaphragm(side)
    top = dome[:, 1].min()
    plates = [_plate(chest, side, top - 0.022 - 0.045 * i, severity, rng) for i in range(1 + round(1.6 * severity))]
    cloud = blob(rng, s * 0.19, top - 0.005, 0.13, 0.05 + 0.03 * severity)
    layers = (
        Layer(tuple(plates), "opacity", 0.60 + 0.28 * severity, blur=0.0035),
        Layer((cloud,), "opacity", 0.25 + 0.35 * severity, blur=0.020, grain=0.2),
    )
    region = np.concatenate([*plates, [(s * 0.06, top - 0.04), (s * chest.half_width, chest.base + 0.01)]])
    return PlacedSign(layers, _padded(region, 0.008))


def _plate(chest: Chest, side: str, y: float, severity: float, rng: np.random.Generator) -> Curve:
    s, y = SIDES[side], y - rng.uniform(0, 0.015)
    wall = abs(chest.width_at(side, y))
    start, end = wall * rng.uniform(0.22, 0.40), wall * rng.uniform(0.80, 0.97)
    tilt = rng.uniform(-0.075, 0.015)
    path = smooth([(s * start, y), (s * 0.5 * (start + end), y + 0.35 * tilt - 0.004), (s * end, y + tilt)])
    taper = np.linspace(0.6, 1.15, len(path))
    return strip(path, (0.008 + 0.010 * severity) * rng.uniform(0.75, 1.1) * taper)


def _consolidation(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A dense lobe that ends sharply at a fissure, its bronchi dark inside it."""
    s, w = SIDES[side], chest.half_width * 1.05
    upper = rng.random() < 0.35
    fissure = chest.down(0.40 if upper else 0.60) + rng.uniform(-0.02, 0.02)
    spread = (0.20 + 0.20 * severity) * chest.height
    far = fissure - spread if upper else fissure + spread
    slope = 0.018 if upper else -0.03
    inner, outer = s * (chest.mediastinum - 0.01), s * w * rng.uniform(0.75, 1.0)
    edge = smooth([(inner, fissure - slope), (outer * 0.5, fissure), (outer, fissure + slope)])
    lobe = np.concatenate([edge, smooth([(outer, far), (outer * 0.55, far + (far - fissure) * 0.12), (inner, far)])])
    x, y = chest.hilum(side)
    layers = (
        Layer((lobe,), "opacity", 0.55 + 0.33 * severity, blur=0.0065, grain=0.12, within=side),
        Layer(tuple(_bronchi(x, y, s, far, rng)), "lucency", 0.09, blur=0.002, within=side),
    )
    corner = (chest.half_width, chest.base)
    return PlacedSign(layers, _padded(np.clip(lobe, (-chest.half_width, chest.apex), corner), 0.010))


def _bronchi(x: float, y: float, s: int, far: float, rng: np.random.Generator) -> list[Curve]:
    paths = []
    for angle in (0.2, 0.65, 1.1):
        length = 0.13 * rng.uniform(0.8, 1.2)
        dx, dy = math.cos(angle) * length * s, math.sin(angle) * length * (1 if far > y else -1)
        path = smooth([(x, y), (x + 0.5 * dx, y + 0.6 * dy), (x + dx, y + dy)])
        paths.append(strip(path, np.linspace(0.010, 0.004, len(path))))
    return paths


def _pneumonia(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """Fluffy patches that run together in one segment."""
    x, y = _spot(chest, side, rng, down=(0.40, 0.70), across=(0.45, 0.65))
    spread = 0.05 + 0.055 * severity
    patches = []
    for _ in range(5 + round(4 * severity)):
        dx, dy = rng.uniform(-1, 1, 2) * spread
        patches.append(blob(rng, x + dx, y + dy, *rng.uniform(0.025, 0.045, 2), rough=0.3))
    layers = (
        Layer(tuple(patches), "opacity", 0.46 + 0.38 * severity, blur=0.009, grain=0.35, cells=48),
        Layer((blob(rng, x, y, 1.3 * spread, 1.3 * spread),), "opacity", 0.22 + 0.2 * severity, blur=0.02),
    )
    return PlacedSign(layers, _padded(np.concatenate(patches), 0.014))


def _infiltration(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A faint streaky veil without an edge, wide in the lower zones."""
    layers, extents = [], []
    for lung in _sides(side):
        x, y = _spot(chest, lung, rng, down=(0.56, 0.74), across=(0.52, 0.68))
        veil = blob(rng, x, y, 0.115, 0.115 + 0.04 * severity)
        streaks = [_streak(x, y, SIDES[lung], rng) for _ in range(9)]
        layers += [
            Layer((veil,), "opacity", 0.24 + 0.30 * severity, blur=0.030, grain=0.55, cells=26),
            Layer(tuple(streaks), "opacity", 0.22 + 0.22 * severity, blur=0.004),
        ]
        extents.append(_padded(veil, 0.015))
    return PlacedSign(tuple(layers), np.concatenate(extents))


def _streak(x: float, y: float, s: int, rng: np.random.Generator) -> Curve:
    start = (x + rng.uniform(-0.07, 0.05) * s, y + rng.uniform(-0.08, 0.05))
    length, angle = rng.uniform(0.04, 0.08), rng.uniform(0.3, 1.2)
    end = (start[0] + s * math.cos(angle) * length, start[1] + math.sin(angle) * length)
    return strip(np.array([start, end]), rng.uniform(0.004, 0.008))


def _emphysema(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """Large dark lungs over flat diaphragms about a slim heart (of the chest's shape), with thin-walled bullae."""
    bullae = []
    for lung in SIDES:
        for _ in range(1 + round(2 * severity)):
            x, y = _spot(chest, lung, rng, down=(0.12, 0.40), across=(0.5, 0.8))
            bullae.append(blob(rng, x, y, *rng.uniform(0.030, 0.055, 2), rough=0.1))
    walls = tuple(strip(np.concatenate([b, b[:1]]), 0.0035) for b in bullae)
    layers = (
        Layer(tuple(bullae), "collapse", 0.05 + 0.12 * severity, blur=0.006),
        Layer(walls, "tissue", 0.05 + 0.05 * severity, blur=0.0012),
    )
    return PlacedSign(layers, np.concatenate([chest.lung("right"), chest.lung("left")]))


def _fibrosis(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A net of coarse lines with small cysts at the bases and along the chest wall."""
    layers, extents = [], []
    for lung in _sides(side):
        spots = _basal_spots(chest, lung, 60 + round(70 * severity), rng)
        angles = rng.uniform(0, math.pi, len(spots))
        half = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * rng.uniform(0.010, 0.022, len(spots))[:, None]
        middle = spots + rng.normal(0, 0.003, spots.shape)
        lines = strip(smooth(np.stack([spots - half, middle, spots + half], axis=1), steps=2), 0.0032)
        cysts = [blob(rng, x, y, 0.008, 0.008, rough=0.3) for x, y in spots[::5]]
        walls = [strip(np.concatenate([c, c[:1]]), 0.0034) for c in cysts]
        layers += [
            Layer((*lines, *walls), "tissue", 0.10 + 0.12 * severity, blur=0.0018),
            Layer((_around(spots),), "opacity", 0.12 + 0.22 * severity, blur=0.020),
        ]
        extents.append(_padded(np.concatenate([*lines, *walls]), 0.006))
    return PlacedSign(tuple(layers), np.concatenate(extents))


def _basal_spots(chest: Chest, side: str, count: int, rng: np.random.Generator) -> Curve:
    """Points that crowd towards the base and the chest wall of a lung, the uppermost in its middle third."""
    down = 1 - 0.55 * rng.random(count) ** 1.4
    y = chest.apex + (down - 0.04) * chest.height
    wall = np.array([chest.width_at(side, v) for v in y])
    return np.stack([wall * (0.98 - 0.50 * rng.random(count) ** 1.3 * np.maximum(down, 0.5)), y], axis=1)


def _around(spots: Curve) -> Curve:
    """The outline of some points as seen from their middle."""
    middle = spots.mean(axis=0)
    order = np.argsort(np.arctan2(spots[:, 1] - middle[1], spots[:, 0] - middle[0]), kind="stable")
    return spots[order[:: max(1, len(order) // 24)]]


def _pleural_thickening(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A white band between chest wall and lung, thickest at its lower third."""
    layers, extents = [], []
    for lung in _sides(side):
        start, end = chest.down(rng.uniform(0.14, 0.32)), chest.down(rng.uniform(0.78, 0.97))
        wall = chest.outer(lung)
        wall = _below(_above(wall[np.abs(wall[:, 0]) > 0.5 * chest.half_width], end), start)
        along = (wall[:, 1] - start) / (end - start)
        profile = np.clip(6 * along * (1 - along), 0, 1) * _uneven(rng, along)
        thick = (0.020 + 0.030 * severity) * profile
        inner = wall - np.stack([SIDES[lung] * thick, np.zeros(len(wall))], axis=1)
        outer = wall + np.array([SIDES[lung] * 0.012, 0])
        band = np.concatenate([outer, inner[::-1]])
        layers += [
            Layer((band,), "opacity", 0.85, blur=0.0028, within=lung),
            Layer((band,), "tissue", 0.05 + 0.06 * severity, blur=0.003, within=lung),
        ]
        extents.append(_padded(np.concatenate([wall, inner]), 0.008))
    return PlacedSign(tuple(layers), np.concatenate(extents))


def _uneven(rng: np.random.Generator, along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slow variation about 1 along a path."""
    return np.interp(along, np.linspace(0, 1, 6), rng.uniform(0.7, 1.3, 6))


def _hernia(chest: Chest, severity: float, side: str, rng: np.random.Generator) -> PlacedSign:
    """A stomach behind the heart: a round wall, air above a level of fluid."""
    rx, ry = 0.058 + 0.050 * severity, 0.052 + 0.042 * severity
    x, y = 0.022 + rng.uniform(-0.015, 0.03), chest.base - chest.dome[1] - ry * 0.55
    sac = blob(rng, x, y, rx, ry, rough=0.06)
    level = y - 0.05 * ry
    air = smooth(
        [
            (x - 0.78 * rx, level),
            (x - 0.55 * rx, y - 0.62 * ry),
            (x, y - 0.82 * ry),
            (x + 0.55 * rx, y - 0.62 * ry),
            (x + 0.78 * rx, level),
        ]
    )
    fluid_line = strip(np.array([(x - 0.82 * rx, level), (x + 0.82 * rx, level)]), 0.005)
    layers = (
        Layer((sac,), "opacity", 0.9, blur=0.003, within="film"),
        Layer((sac,), "tissue", 0.16, blur=0.004, within="film"),
        Layer((air,), "lucency", 0.27 + 0.08 * severity, blur=0.003, within="film"),
        Layer((fluid_line,), "tissue", 0.05, blur=0.001, within="film"),
    )
    return PlacedSign(layers, _padded(sac, 0.008))


PLACES: dict[str, Place] = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}

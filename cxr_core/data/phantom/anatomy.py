"""The body of a patient and its projection: outlines of a frontal chest as curves in the body's own frame.

Body frame: x from the midline (positive is image-right, the patient's left), y from the top of the film, both in units
of the film's width (about 35 cm). `Chest.project` puts a curve where the patient stood when the film was taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom.case import Case, stream

Curve = NDArray[np.float64]
"""Points of shape (n, 2)."""

SIDES = {"right": -1, "left": 1}
"""Sign of x for each side of the patient."""


@dataclass(frozen=True)
class Body:
    """What a patient keeps from one visit to the next; lengths in film widths."""

    half_width: float
    apex: float
    base: float
    dome: float
    heart_ratio: float
    habitus: float
    scoliosis: float
    shoulder: float
    rib_slope: float
    rib_width: float
    breast: float
    bubble: float
    knob: float


def body_of(seed: int, patient_id: str, *, sex: str, age: int) -> Body:
    """The same body for the same (seed, patient): only the aortic knob grows with age."""
    rng = stream(seed, patient_id, "body")
    female = sex == "F"
    habitus = float(np.clip(rng.normal(0, 0.55), -1.2, 1.6))
    return Body(
        half_width=(0.345 if female else 0.365) + rng.normal(0, 0.016),
        apex=0.115 + rng.normal(0, 0.012),
        base=0.815 + rng.normal(0, 0.018) - 0.02 * habitus,
        dome=0.095 + rng.normal(0, 0.010) + 0.012 * habitus,
        heart_ratio=0.43 + rng.normal(0, 0.020) + 0.012 * habitus,
        habitus=habitus,
        scoliosis=rng.normal(0, 0.008),
        shoulder=rng.normal(0, 0.012),
        rib_slope=rng.normal(0, 0.012),
        rib_width=0.0165 + rng.normal(0, 0.0012),
        breast=float(np.clip(rng.normal(0.6, 0.25), 0.15, 1)) if female else max(0.0, 0.25 * habitus),
        bubble=rng.uniform(0.3, 1.0),
        knob=0.030 + 0.010 * min(max((age - 30) / 50, 0), 1) + rng.normal(0, 0.002),
    )


@cache
def _catmull_rom(knots: int, closed: bool, steps: int) -> NDArray[np.float64]:
    """Weights of shape (points, knots) of a uniform Catmull-Rom curve; an open one is extended straight at its ends."""
    unit = np.eye(knots)
    ends = (unit[-1:], unit[:2]) if closed else (2 * unit[:1] - unit[1:2], 2 * unit[-1:] - unit[-2:-1])
    p = np.concatenate([ends[0], unit, ends[1]])
    a, b, c, d = (p[i : len(p) - 3 + i, None, :] for i in range(4))
    t = (np.arange(steps) / steps)[None, :, None]
    weights = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t * t * t)
    weights = weights.reshape(-1, knots)
    return weights if closed else np.concatenate([weights, unit[-1:]])


def smooth(points: Sequence[tuple[float, float]] | Curve, *, closed: bool = False, steps: int = 6) -> Curve:
    """Catmull-Rom curve through `points`; curves of shape (..., n, 2) are drawn all at once."""
    knots = np.asarray(points, dtype=np.float64)
    return _catmull_rom(knots.shape[-2], closed, steps) @ knots


def strip(path: Curve, width: float | NDArray[np.float64]) -> Curve:
    """Outline of a band of the given width (a number, or one for each point) along one or more paths (..., n, 2)."""
    along = np.empty_like(path)
    along[..., 1:-1, :] = path[..., 2:, :] - path[..., :-2, :]
    along[..., 0, :], along[..., -1, :] = path[..., 1, :] - path[..., 0, :], path[..., -1, :] - path[..., -2, :]
    x, y = along[..., 0], along[..., 1]
    half = 0.5 * width / (np.sqrt(x * x + y * y) + 1e-12)
    offset = np.stack([-y * half, x * half], axis=-1)
    return np.concatenate([path + offset, (path - offset)[..., ::-1, :]], axis=-2)


@cache
def _circle(points: int) -> Curve:
    angles = [2 * math.pi * i / points for i in range(points)]
    return np.array([(math.cos(a), math.sin(a)) for a in angles])


def ellipse(x: float, y: float, rx: float, ry: float, *, points: int = 24) -> Curve:
    return _circle(points) * (rx, ry) + (x, y)


@dataclass(frozen=True)
class Chest:
    """A body as it stands before the film in one exposure, with the changes of shape that its findings bring."""

    body: Body
    view: str
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Body frame to film frame ([0, 1] x [0, 1])."""
    half_width: float
    apex: float
    base: float
    dome: tuple[float, float]
    """Height of the diaphragm's dome over the costophrenic angle: right, left."""
    lift: tuple[float, float]
    """How far the whole diaphragm is raised: right, left."""
    heart_ratio: float
    mediastinum: float
    vessel_width: float
    aeration: float

    @property
    def height(self) -> float:
        return self.base - self.apex

    def down(self, fraction: float) -> float:
        """y at a fraction of the way from the lung's apex (0) to the costophrenic angle (1)."""
        return self.apex + fraction * self.height

    def project(self, curve: Curve) -> Curve:
        """Body frame to film frame; written out since a matrix product may round differently elsewhere."""
        (a, b, c), (d, e, f) = self.matrix
        x, y = curve[..., 0], curve[..., 1]
        film = np.empty_like(curve)
        film[..., 0], film[..., 1] = a * x + b * y + c, d * x + e * y + f
        return film

    def outer(self, side: str) -> Curve:
        """Lateral border of the lung from near the midline over the apex to the costophrenic angle."""
        return self._borders[side]

    @cached_property
    def _borders(self) -> dict[str, Curve]:
        return {side: self._border(side) for side in SIDES}

    def _border(self, side: str) -> Curve:
        w, s, y = self.half_width, SIDES[side], self.down
        path = [(0.20, 0.07), (0.27, 0.015), (0.40, 0), (0.56, 0.03), (0.72, 0.12), (0.85, 0.27), (0.93, 0.45)]
        path += [(0.965, 0.65), (0.99, 0.82), (0.985, 1.0)]
        lifted = self.lift[side == "left"]
        return smooth([(s * w * x, y(t) - lifted * max(0, t - 0.65) / 0.35) for x, t in path])

    def diaphragm(self, side: str) -> Curve:
        """Dome of the diaphragm from the costophrenic angle to the midline."""
        w, s, left = self.half_width, SIDES[side], side == "left"
        path = [(0.985, 0), (0.90, 0.46), (0.76, 0.83), (0.58, 1.0), (0.40, 0.98), (0.22, 0.80), (0.0, 0.55)]
        floor = self.base - self.lift[left] + (0.022 if left else 0)
        return smooth([(s * w * x, floor - self.dome[left] * t - (0.022 * (1 - t) if left else 0)) for x, t in path])

    def belly(self, side: str) -> Curve:
        """Closed outline of what lies under the diaphragm, to below the film."""
        s, w = SIDES[side], self.half_width
        return np.concatenate(
            [self.diaphragm(side)[::-1], [(s * 1.06 * w, self.base + 0.08), (s * 1.2 * w, 1.3), (0, 1.3)]]
        )

    def inner(self, side: str) -> Curve:
        """Mediastinal border from the diaphragm up to the apex."""
        s, m, y = SIDES[side], self.mediastinum, self.down
        path = [(0.75, 0.86), (0.85, 0.70), (1.0, 0.50), (1.0, 0.35), (0.95, 0.20)]
        return smooth([(s * m * x, y(t)) for x, t in path])

    def lung(self, side: str) -> Curve:
        """Closed outline of a lung, the heart not cut out."""
        return np.concatenate([self.outer(side), self.diaphragm(side)[1:-4], self.inner(side)])

    def hilum(self, side: str) -> tuple[float, float]:
        return SIDES[side] * (self.mediastinum + 0.028), self.down(0.47 if side == "right" else 0.445)

    @cached_property
    def heart_extent(self) -> tuple[float, float]:
        """x of the right and the left heart border."""
        width = self.heart_ratio * 2 * self.half_width
        right = 0.33 - 0.16 * (self.heart_ratio - 0.43)
        return -right * width, (1 - right) * width

    def heart(self) -> Curve:
        """Closed outline of the heart from the right upper border clockwise over the apex at image-right."""
        right, left = self.heart_extent
        y, m = self.down, self.mediastinum
        floor = self.base - 0.55 * self.dome[1] + 0.03
        return smooth(
            [
                (-m * 0.70, y(0.46)),
                (m * 0.3, y(0.41)),
                (m + 0.010, y(0.44)),
                (0.5 * left + 0.026, y(0.52)),
                (0.80 * left, y(0.64)),
                (0.99 * left, y(0.79)),
                (0.95 * left, y(0.89)),
                (0.60 * left, floor + 0.02),
                (0.0, floor + 0.03),
                (0.80 * right, floor - 0.01),
                (1.0 * right, y(0.74)),
                (0.90 * right, y(0.62)),
                (0.62 * right, y(0.52)),
            ],
            closed=True,
        )

    def spine(self, y: float) -> float:
        """x of the spine's axis at y."""
        bend = (y - 0.15) * (y - 0.55) * (y - 0.95) * 20
        return self.body.scoliosis * bend

    def width_at(self, side: str, y: float) -> float:
        """x of the lung's lateral border at y."""
        border = self.outer(side)
        below = border[np.argmax(np.abs(border[:, 0]) > 0.38 * self.half_width) :]
        return float(np.interp(y, below[:, 1], below[:, 0]))


def pose_of(case: Case) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Rotation, zoom and shift of one exposure: a bedside film is taken with less care."""
    rng = stream(case.seed, case.image_id, "pose")
    loose = 1.0 if case.view == "PA" else 1.7
    angle = math.radians(rng.normal(0, 1.1) * loose)
    zoom = 1.0 + rng.normal(0.03, 0.028) * loose - (0.25 * max(0, 14 - case.age) / 14)
    dx, dy = (rng.normal(0, 0.010) * loose for _ in range(2))
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    return (cos, -sin, 0.5 + dx + sin * 0.47), (sin, cos, 0.47 + dy - cos * 0.47)


def chest_of(case: Case) -> Chest:
    """The chest of one case. Cardiomegaly, Emphysema, Atelectasis and Edema change its shape."""
    body = body_of(case.seed, case.patient_id, sex=case.sex, age=case.age)
    rng = stream(case.seed, case.image_id, "breath")
    ap = case.view == "AP"
    breath = rng.normal(0, 0.010) - (0.050 if ap else 0)
    chest = Chest(
        body=body,
        view=case.view,
        matrix=pose_of(case),
        half_width=body.half_width * (0.985 if ap else 1.0),
        apex=body.apex + (0.012 if ap else 0),
        base=body.base + breath,
        dome=(body.dome + 0.022 + (0.012 if ap else 0), body.dome + (0.012 if ap else 0)),
        lift=(0.0, 0.0),
        heart_ratio=body.heart_ratio * (1.11 if ap else 1.0),
        mediastinum=0.060 * (1.14 if ap else 1.0) + 0.006 * body.habitus,
        vessel_width=1.0,
        aeration=1.0,
    )
    return _shaped(chest, case)


def _shaped(chest: Chest, case: Case) -> Chest:
    large, hyper, oedema = (case.severity(f) for f in ("Cardiomegaly", "Emphysema", "Edema"))
    if large:
        chest = replace(chest, heart_ratio=max(chest.heart_ratio, 0.46) + 0.06 + 0.14 * large)
    if hyper:
        flat = 0.60 - 0.32 * hyper
        chest = replace(
            chest,
            half_width=chest.half_width * (1.015 + 0.03 * hyper),
            apex=chest.apex - 0.012 * hyper,
            base=chest.base + 0.012 + 0.035 * hyper,
            dome=(chest.dome[0] * flat, chest.dome[1] * flat),
            heart_ratio=chest.heart_ratio * (0.92 - 0.14 * hyper),
            vessel_width=0.80 - 0.25 * hyper,
            aeration=1.05 + 0.15 * hyper,
        )
    if oedema:
        chest = replace(chest, vessel_width=chest.vessel_width * (1.2 + 0.55 * oedema))
    right, left = (case.severity("Atelectasis", side) for side in SIDES)
    return replace(chest, lift=(_raised(right), _raised(left)))


def _raised(collapse: float) -> float:
    """How far a collapsing lung pulls up its half of the diaphragm."""
    return 0.016 + 0.064 * collapse if collapse else 0.0

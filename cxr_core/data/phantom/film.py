"""From attenuation to the film that is read: exposure, devices, grain, border, side marker."""

import math

import numpy as np
from numpy.typing import NDArray

from cxr_core.data.phantom.anatomy import Curve, ellipse, smooth, strip
from cxr_core.data.phantom.case import Case, stream
from cxr_core.data.phantom.pen import Field, Pen

_LEVELS = 1024
_TOP = 1.6
"""Attenuation at the end of the film's response table."""

_GLYPHS: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 1), (0.7, 1)]],
    "R": [[(0, 1), (0, 0), (0.6, 0.05), (0.65, 0.4), (0, 0.5)], [(0.3, 0.5), (0.7, 1)]],
    "A": [[(0, 1), (0.35, 0), (0.7, 1)], [(0.15, 0.65), (0.55, 0.65)]],
    "P": [[(0, 1), (0, 0), (0.6, 0.05), (0.65, 0.4), (0, 0.5)]],
}


def develop(case: Case, attenuation: Field, pen: Pen) -> NDArray[np.uint8]:
    """The film, uint8 of shape (size, size)."""
    rng = stream(case.seed, case.image_id, "film")
    table = _response(rng, case.view)
    if case.view == "AP":
        attenuation = attenuation + _devices(pen, rng)
    image = table[np.clip(attenuation * (_LEVELS / _TOP), 0, _LEVELS - 1).astype(np.int32)]
    noisy = image + _noise(rng, pen.size, image)
    lettered = np.maximum(noisy, _marker(pen, rng, case.view))
    return np.clip(lettered * _border(pen, rng) + np.float32(0.5), 0, 255).astype(np.uint8)


def _response(rng: np.random.Generator, view: str) -> NDArray[np.float32]:
    """Grey value of each attenuation: steep in the lungs, flat in the mediastinum; a bedside film has less contrast."""
    bedside = view == "AP"
    steep = rng.uniform(1.5, 2.1) - (0.25 if bedside else 0)
    power = 1.22 + rng.normal(0, 0.07)
    gain = 255 * rng.uniform(0.93, 1.04)
    lift = rng.uniform(0.0, 0.03) + (0.025 if bedside else 0)
    top = 1 - math.exp(-steep * 1.35)
    levels = (lift + (i * _TOP / _LEVELS) for i in range(_LEVELS))
    values = [min(255.0, gain * ((1 - math.exp(-steep * a)) / top) ** power) for a in levels]
    return np.array(values, np.float32)


def _noise(rng: np.random.Generator, size: int, image: Field) -> Field:
    """Quantum noise: more where fewer quanta arrive, half of it shared by neighbours as a screen blurs them."""
    white = rng.standard_normal((size + 1, size + 1), np.float32)
    mottle = white[:-1, :-1] + np.float32(0.5) * (white[1:, :-1] + white[:-1, 1:])
    return mottle * (np.float32(rng.uniform(0.6, 1.4)) + image * np.float32(0.004))


def _devices(pen: Pen, rng: np.random.Generator) -> Field:
    """What lies on a bedside patient whatever the finding: leads, electrodes, lines and tubes."""
    film = pen.blank()
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.30, 0.30), rng.uniform(0.20, 0.75)
        pen.mask(ellipse(x, y, 0.012, 0.012, points=12), value=200, on=film)
        end = (0.6 if rng.random() < 0.5 else -0.6, y + rng.uniform(-0.1, 0.3))
        pen.mask(
            strip(smooth([(x, y), (0.5 * (x + end[0]), y + rng.uniform(-0.05, 0.15)), end]), 0.0035), value=150, on=film
        )
    if rng.random() < 0.35:
        pen.mask(*(strip(path, 0.0030) for path in _tubes(pen, rng)), value=130, on=film)
    return 0.28 * pen.soften(film, 0.0012)


def _tubes(pen: Pen, rng: np.random.Generator) -> list[Curve]:
    y = pen.chest.down
    line = smooth([(-0.45, y(0.30)), (-0.24, y(0.07)), (-0.08, y(0.10)), (-0.042, y(0.25)), (-0.045, y(0.45))])
    tube = smooth([(0.002, -0.1), (0.0, 0.05), (-0.003, y(0.24))])
    return [line, np.concatenate([tube, np.add(tube[::-1], (0.006, 0))])] if rng.random() < 0.5 else [line]


def _marker(pen: Pen, rng: np.random.Generator, view: str) -> Field:
    """The side marker: an L at image-right or an R at image-left; a bedside film may say AP."""
    letter = "L" if rng.random() < 0.75 else "R"
    x = (0.36 + rng.uniform(0, 0.08)) * (1 if letter == "L" else -1)
    y, height = rng.uniform(0.03, 0.075), rng.uniform(0.028, 0.04)
    strokes = _letter(letter, x, y, height)
    if view == "AP" and rng.random() < 0.6:
        for glyph, shift in (("A", -0.02), ("P", 0.01)):
            strokes += _letter(glyph, x + shift, y + 1.3 * height, 0.6 * height)
    return 245 * pen.soften(pen.mask(*strokes), 0.0008)


def _letter(glyph: str, x: float, y: float, height: float) -> list[Curve]:
    return [strip(np.array(path) * height + (x, y), 0.17 * height) for path in _GLYPHS[glyph]]


def _border(pen: Pen, rng: np.random.Generator) -> Field:
    """Collimation: 1 inside, 0 beyond the blades' edges; many films are open to their edge."""
    keep = np.zeros((pen.size, pen.size), np.float32)
    left, right, top, bottom = (round(pen.size * max(0.0, rng.uniform(-0.07, 0.035))) for _ in range(4))
    keep[top : pen.size - bottom, left : pen.size - right] = 1
    return keep

"""Named regions of a frontal chest radiograph: a 3 x 3 grid, and the zones of the lungs.

Everything here is in fractions of the square image, x to the right and y down, and in the image's frame: a patient who
faces us has the left lung on the right of the image. Zones are where lungs usually lie, not where this patient's do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
OTHER: Mapping[str, Side] = {"left": "right", "right": "left"}

_TOP, _BOTTOM = 0.10, 0.90
"""Between these lie the lungs of ChestX-ray14's images, for the three zones."""
_SMALL = 0.25
"""Width and height, at most, of what is said to be at the hilum, in an angle or behind the heart."""


@dataclass(frozen=True)
class Region:
    """A rectangle with a name; `side` is that of the image, and stands for {side} in `words`."""

    words: str
    side: Side | None
    x0: float
    y0: float
    x1: float
    y1: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it; its upper and left border belong to it."""
        return self.x0 <= x < self.x1 and self.y0 <= y < self.y1

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1


def _grid() -> tuple[Region, ...]:
    rows, columns = ("upper", "middle", "lower"), ("left", "center", "right")
    return tuple(
        Region(
            f"the {row} {'center' if column == 'center' else '{side}'}",
            None if column == "center" else column,  # type: ignore[arg-type]
            *(i / 3, j / 3, (i + 1) / 3, (j + 1) / 3),
        )
        for j, row in enumerate(rows)
        for i, column in enumerate(columns)
    )


def _of_both_sides(words: str, x0: float, y0: float, x1: float, y1: float) -> tuple[Region, Region]:
    """A region given for the left of the image, and its mirror image."""
    return Region(words, "left", x0, y0, x1, y1), Region(words, "right", 1 - x1, y0, 1 - x0, y1)


def _thirds() -> tuple[Region, ...]:
    third = (_BOTTOM - _TOP) / 3
    edges = (0.0, _TOP + third, _TOP + 2 * third, 1.0)
    names = zip(("upper", "mid", "lower"), edges, edges[1:], strict=False)
    return tuple(
        r for name, y0, y1 in names for r in _of_both_sides(f"the {{side}} {name} lung zone", 0.0, y0, 0.5, y1)
    )


GRID = _grid()
_THIRDS = _thirds()
_RETROCARDIAC = Region("the retrocardiac zone", None, 0.50, 0.60, 0.64, 0.85)
_SPECIAL = (
    _RETROCARDIAC,
    *_of_both_sides("the {side} costophrenic angle", 0.0, 0.68, 0.26, 1.0),
    *_of_both_sides("the {side} perihilar zone", 0.30, 0.38, 0.46, 0.60),
)
_MIDLINE = Region("the midline", None, 0.30, 0.0, 0.70, 1.0)
_BOTH_LUNGS = Region("both lungs", None, 0.0, 0.0, 1.0, 1.0)
ZONES = (*_THIRDS, *_SPECIAL, _MIDLINE, _BOTH_LUNGS)

Box = Mapping[str, Any]
"""finding; x, y (upper left corner), w, h, here in fractions of the image."""


def cell_of(box: Box) -> Region:
    """The cell of the grid that holds the middle of a box."""
    return _holding(GRID, *middle(box))


def zone_of(box: Box) -> Region:
    """The zone that says most of where a box is: one that spans both sides by its extent, others by their middle."""
    left, right = box["x"], box["x"] + box["w"]
    if left < 0.25 and right > 0.75:
        return _BOTH_LUNGS
    if left < 0.40 and right > 0.60:
        return _MIDLINE
    is_small = box["w"] <= _SMALL and box["h"] <= _SMALL
    return _holding((*_SPECIAL, *_THIRDS) if is_small else _THIRDS, *middle(box))


def middle(box: Box) -> tuple[float, float]:
    """x, y of a box's middle."""
    return box["x"] + box["w"] / 2, box["y"] + box["h"] / 2


def _holding(regions: tuple[Region, ...], x: float, y: float) -> Region:
    """The first that holds a point; a point on or outside the image's far border counts as just inside."""
    x, y = min(max(x, 0.0), 1 - 1e-9), min(max(y, 0.0), 1 - 1e-9)
    return next(region for region in regions if region.holds(x, y))


def unit_boxes(boxes: Any, size: int) -> list[dict[str, Any]]:
    """Boxes in pixels of an image of `size` pixels a side, as a Dataset stores them, in fractions of it."""
    return [{"finding": box["finding"], **{name: box[name] / size for name in ("x", "y", "w", "h")}} for box in boxes]

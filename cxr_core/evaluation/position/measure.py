"""Hit rate, side and overlap of found boxes: with real boxes, then with the regions that were asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.data.positions.phrases import parse, region_words
from cxr_core.data.positions.regions import GRID, Box, Region, cell_of, middle, unit_boxes, zone_of
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import mean_interval
from cxr_core.evaluation.position.results import PositionAsked, PositionFinding, PositionTrial, PositionVerdict
from cxr_core.evaluation.position.settings import Position
from cxr_core.models.localiser_folder import LocaliserInfo
from cxr_core.seeds import derive_seed

_Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Localisation:
    """One image in which something was looked for: whether it was found in its place, on its side (None: it has none),
    and with which overlap; `asked` and `found` are the regions in words."""

    group: str
    hit: bool
    side: bool | None
    iou: float
    asked: str
    found: str
    guessed: bool


def judge_positions(
    real: pd.DataFrame,
    real_size: int,
    synthetic: pd.DataFrame,
    found: Mapping[str, pd.DataFrame],
    info: LocaliserInfo,
    vocabulary: Findings,
    settings: Position,
    seed: int,
) -> tuple[PositionFinding, ...]:
    """Try the localiser on the boxes of `real`, then let it judge where `synthetic` images show what was asked for.

    `real` are held-out rows of a Dataset of `real_size` pixels with boxes, `synthetic` rows whose prompts say places;
    `found["real"]` and `found["synthetic"]` what `Finder.boxes` found in them.
    """
    results = []
    for name in info.findings:
        looks = real_localisations(real, real_size, _of(found["real"], name), name, info.prior[name])
        trial = _trial(looks, info.prior[name], settings, derive_seed(seed, "real", name))
        placed = synthetic_localisations(synthetic, _of(found["synthetic"], name), name, info.prior[name], vocabulary)
        asked = [
            _asked(request, part, trial, settings, derive_seed(seed, request, name)) for request, part in placed.items()
        ]
        results.append(PositionFinding(finding=name, trial=trial, asked=tuple(asked)))
    return tuple(results)


def _of(found: pd.DataFrame, finding: str) -> dict[str, dict[str, Any]]:
    """What was found of one finding, by image."""
    part = found[found["finding"] == finding]
    return dict(zip(part["image_id"], part.to_dict("records"), strict=True))


def real_localisations(
    rows: pd.DataFrame, size: int, found: Mapping[str, Box], finding: str, prior: str
) -> list[Localisation]:
    """Real images with a box of the finding, by patient."""
    looks = []
    for row in _records(rows):
        boxes = [box for box in unit_boxes(row["boxes"], size) if box["finding"] == finding]
        if not boxes:
            continue
        one, cells = found[row["image_id"]], [cell_of(box) for box in boxes]
        sides = {cell.side for cell in cells}
        side = None if sides != {"left"} and sides != {"right"} else _side(one) in sides
        told = [region_words(cell, "image") for cell in cells]
        overlap = max(iou(_corners(one), _corners(box)) for box in boxes)
        hit = cell_of(one) in cells
        looks.append(
            Localisation(
                row["patient_id"], hit, side, overlap, told[0], region_words(cell_of(one), "image"), prior in told
            )
        )
    return looks


def synthetic_localisations(
    rows: pd.DataFrame, found: Mapping[str, Box], finding: str, prior: str, vocabulary: Findings
) -> dict[str, list[Localisation]]:
    """Synthetic images that were asked for with one place of the finding, by the name of their request."""
    looks: dict[str, list[Localisation]] = {}
    for row in _records(rows):
        regions = asked_regions(row["prompt"], finding, vocabulary)
        if not regions:
            continue
        one = found[row["image_id"]]
        here = cell_of(one) if regions[0] in GRID else zone_of(one)
        sides = {region.side for region in regions}
        side = None if sides != {"left"} and sides != {"right"} else _side(one) in sides
        told = [region_words(region, "image") for region in regions]
        overlap = max(iou(_corners(one), region.corners) for region in regions)
        looks.setdefault(row["request"], []).append(
            Localisation(
                row["image_id"], here in regions, side, overlap, told[0], region_words(here, "image"), prior in told
            )
        )
    return looks


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def asked_regions(prompt: str, finding: str, vocabulary: Findings) -> list[Region]:
    """The regions in which a prompt puts a finding."""
    return [one.region for one in parse(prompt, vocabulary.names) if one.finding == finding and one.region]


def iou(one: _Corners, other: _Corners) -> float:
    """Intersection over union of two rectangles x0, y0, x1, y1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (_area(one) + _area(other) - shared)


def _area(corners: _Corners) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _corners(box: Box) -> _Corners:
    return box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]


def _side(box: Box) -> str:
    return "left" if middle(box)[0] < 0.5 else "right"


def _trial(looks: Sequence[Localisation], prior: str, settings: Position, seed: int) -> PositionTrial:
    num_patients = len({look.group for look in looks})
    counted: dict[str, Any] = {"num_images": len(looks), "num_patients": num_patients, "prior": prior}
    if len(looks) < settings.min_images:
        few = f"n = {len(looks)} held-out images with a box, {settings.min_images} are needed"
        return PositionTrial(**counted, refused=few)
    rates = _rates(looks, settings, seed)
    guess, low = rates["guess"], rates["hit_rate"].low
    refused = None
    if low < settings.min_hit_rate:
        refused = f"its hit rate on real boxes may be {low:.2f}, below {settings.min_hit_rate:.2f} (n = {len(looks)})"
    elif low <= guess:
        refused = f"its hit rate on real boxes may be {low:.2f}, always guessing {prior} has {guess:.2f}"
    return PositionTrial(**counted, **rates, refused=refused)


def _asked(
    request: str, looks: Sequence[Localisation], trial: PositionTrial, settings: Position, seed: int
) -> PositionAsked:
    refused = f"the localiser is refused: {trial.refused}" if trial.refused else None
    if refused is None and len(looks) < settings.min_images:
        refused = f"n = {len(looks)} images asked for with a place, {settings.min_images} are needed"
    if refused:
        return PositionAsked(request=request, num_images=len(looks), refused=refused)
    rates = _rates(looks, settings, seed)
    confusion = {place: dict(Counter(look.found for look in looks if look.asked == place)) for place in _places(looks)}
    says = verdict(rates["hit_rate"], rates["guess"], trial.hit_rate)
    return PositionAsked(request=request, num_images=len(looks), **rates, confusion=confusion, verdict=says)


def _places(looks: Sequence[Localisation]) -> list[str]:
    return sorted({look.asked for look in looks})


def _rates(looks: Sequence[Localisation], settings: Position, seed: int) -> dict[str, Any]:
    sided = [look for look in looks if look.side is not None]

    def interval(values: list[float], of: Sequence[Localisation]) -> Interval | None:
        groups = np.array([look.group for look in of])
        return mean_interval(np.array(values), groups, seed, settings.num_resamples) if of else None

    return {
        "guess": float(np.mean([look.guessed for look in looks])),
        "hit_rate": interval([float(look.hit) for look in looks], looks),
        "laterality": interval([float(bool(look.side)) for look in sided], sided),
        "num_sided": len(sided),
        "iou": interval([look.iou for look in looks], looks),
    }


def verdict(hit_rate: Interval, guess: float, ceiling: Interval | None) -> PositionVerdict:
    """What the numbers say; `ceiling` is the hit rate on real boxes."""
    if hit_rate.low <= guess:
        return "not_shown"
    return "follows_less" if ceiling is not None and hit_rate.high < ceiling.low else "follows"

"""Pictures of positions: real images, synthetic ones asked for without a place and with one, and what was found."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset, pixel_sha256
from cxr_core.data.findings import Findings
from cxr_core.data.positions.phrases import region_words
from cxr_core.data.positions.regions import unit_boxes
from cxr_core.data.sheet import contact_sheet
from cxr_core.evaluation.pools import has_finding, in_hash_order
from cxr_core.evaluation.position.locate import Finder, peak
from cxr_core.evaluation.position.measure import asked_regions
from cxr_core.evaluation.position.results import PositionPicture
from cxr_core.evaluation.position.settings import Position
from cxr_core.models.classifier import resized
from cxr_core.runs.files import canonical_json, sha256_text, write_atomic, write_json
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Output

_SIDE = 192
_HEAT, _WANTED, _FOUND = (255, 70, 40), (120, 230, 120), (255, 190, 60)
"""Red, green, blue: of the map, of the box or region that is right, and of what was found."""
_LARGEST_SHARE = 0.55
"""Of the map's colour where it is 1."""

Corners = list[tuple[float, float, float, float]]


def draw(finder: Finder, settings: Position, real: Dataset, synthetic: Dataset, seed: int, work: Path) -> Output:
    """Write one PNG for each finding into `work` (role `position00` ...) and positions.json, the list of them."""
    paths: dict[str, Path] = {}
    listed, digests = [], []
    for i, finding in enumerate(finder.info.findings):
        rows = _rows(finding, settings, real, synthetic, seed)
        if not rows:
            continue
        sheet = _sheet(finder, i, rows, settings.num_columns)
        paths[f"position{i:02d}"] = path = work / f"position{i:02d}.png"
        write_atomic(path, cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
        listed.append({"finding": finding, "rows": list(rows), "num_columns": settings.num_columns, "role": path.stem})
        digests.append(pixel_sha256(sheet))
    write_json(work / "positions.json", {"format": 1, "pictures": listed})
    digest = sha256_text(canonical_json([listed, digests]))
    return Output({**paths, "list": work / "positions.json"}, digest, {"pictures": len(paths)})


def committed(listed: list[dict[str, Any]], receipt: Receipt) -> tuple[PositionPicture, ...]:
    """The pictures' part of metrics.json, from the list in positions.json and the shard's receipt."""
    names = {data.role: f"shards/{data.name}" for data in receipt.data}
    return tuple(
        PositionPicture(
            finding=one["finding"], path=names[one["role"]], rows=one["rows"], num_columns=one["num_columns"]
        )
        for one in listed
    )


_Wanted = Callable[[Any], tuple[Corners, str]]
"""Of a row of a Dataset: the rectangles that are right, and a caption."""


def _rows(
    finding: str, settings: Position, real: Dataset, synthetic: Dataset, seed: int
) -> dict[str, tuple[Dataset, pd.DataFrame, _Wanted]]:
    """What each row of the picture shows, those left out that there is nothing of; images in an order by chance."""
    held_out, made = real.of_split(settings.split), synthetic.rows
    boxed = held_out[[any(box["finding"] == finding for box in boxes) for boxes in held_out["boxes"]]]
    has = made[has_finding(made["labels"], finding, "any", synthetic.findings)]
    placed = has["prompt"].map(lambda prompt: bool(asked_regions(prompt, finding, synthetic.findings))).astype(bool)
    rows: dict[str, tuple[Dataset, pd.DataFrame, _Wanted]] = {
        "real": (real, boxed, lambda row: _real_wanted(row, finding, real.info.size))
    }
    rows["asked for without a place"] = (synthetic, has[~placed], lambda row: ([], row.request or "any place"))
    for request in sorted(has.loc[placed, "request"].unique()):
        part = has[placed & (has["request"] == request)]
        name = f"asked for with a place{f' ({request})' if request else ''}"
        rows[name] = (synthetic, part, lambda row: _asked_wanted(row, finding, synthetic.findings))
    return {
        name: (dataset, in_hash_order(part, seed, f"position of {finding}").head(settings.num_columns), wanted)
        for name, (dataset, part, wanted) in rows.items()
        if len(part)
    }


def _real_wanted(row: Any, finding: str, size: int) -> tuple[Corners, str]:
    boxes = [box for box in unit_boxes(row.boxes, size) if box["finding"] == finding]
    return [(box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]) for box in boxes], "real, box"


def _asked_wanted(row: Any, finding: str, findings: Findings) -> tuple[Corners, str]:
    regions = asked_regions(row.prompt, finding, findings)
    words = region_words(regions[0], "image").removeprefix("the ").removesuffix(" of the image")
    return [region.corners for region in regions], f"image {words}"


def _sheet(
    finder: Finder, finding: int, rows: Mapping[str, tuple[Dataset, pd.DataFrame, _Wanted]], columns: int
) -> np.ndarray:
    """All rows below one another: uint8 (height, width, 3)."""
    tiles, texts = [], []
    for dataset, part, wanted in rows.values():
        images = dataset.images(part)
        for row, image, heat in zip(part.itertuples(), images, finder.maps(images)[:, finding], strict=True):
            right, words = wanted(row)
            tiles.append(overlay(image, heat, right))
            texts.append(words)
        missing = columns - len(part)
        tiles += [np.zeros((_SIDE, _SIDE, 3), np.uint8)] * missing
        texts += [" "] * missing
    stack = np.stack(tiles)
    return np.stack([contact_sheet(stack[..., channel], texts, columns=columns) for channel in range(3)], axis=-1)


def overlay(image: np.ndarray, heat: np.ndarray, right: Corners) -> np.ndarray:
    """An image with the localiser's map in red, what is right in green and what was found in yellow: uint8 (side, side,
    3), RGB."""
    grey = resized(image[None], _SIDE)[0]
    share = _LARGEST_SHARE * cv2.resize(heat.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    mixed = grey[..., None] * (1 - share[..., None]) + np.array(_HEAT, np.float32) * share[..., None]
    tile = np.ascontiguousarray(mixed.clip(0, 255).astype(np.uint8))
    found = peak(heat)
    for corners in right:
        _rectangle(tile, corners, _WANTED)
    _rectangle(tile, (found["x"], found["y"], found["x"] + found["w"], found["y"] + found["h"]), _FOUND)
    return tile


def _rectangle(tile: np.ndarray, corners: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = (round(value * (_SIDE - 1)) for value in corners)
    cv2.rectangle(tile, (x0, y0), (x1, y1), colour, 1)

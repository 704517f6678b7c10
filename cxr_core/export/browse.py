"""A local page to look through a Dataset: thumbnails in sheets that the browser loads when they come into sight."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr_core.boundary import INTERNAL
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NO_FINDING
from cxr_core.data.generation_record import made_of
from cxr_core.data.threads import in_order
from cxr_core.export.folder import new_folder, write_file
from cxr_core.models.classifier import resized
from cxr_core.runs.progress import bar

THUMB = 96
"""Pixels a side of a thumbnail."""
ACROSS = 10
"""Thumbnails a side of a sheet: 100 in a file of some 200 kB, so that few bytes are loaded in vain."""
_QUALITY = 80
_THREADS = 4


def write_page(dataset: Dataset, out: Path) -> Path:
    """Write index.html, what it shows (data.js) and sheets of thumbnails into the new folder `out`.

    The page needs no network and no server. Raises UserError where `out` exists or another page was begun there.
    """
    _ = dataset.rows  # refused before anything is begun
    with new_folder(out, {"form": "browse", **dataset.marks()}) as part:
        _write_sheets(dataset, part)
        (part / "data.js").write_text(f"const DATA = {json.dumps(_told(dataset), ensure_ascii=True)};\n")
        page = (files("cxr_core.export") / "browse.html").read_text(encoding="utf-8")
        mark = "" if dataset.info.synthetic else f"<p><strong>{INTERNAL}</strong></p>"
        (part / "index.html").write_text(page.replace("<header>", f"<header>{mark}", 1))
    return out / "index.html"


def _write_sheets(dataset: Dataset, part: Path) -> None:
    each = ACROSS * ACROSS
    todo = [
        (part / f"sheets/{number:05d}.jpg", dataset.rows.iloc[start : start + each])
        for number, start in enumerate(range(0, len(dataset.rows), each))
    ]
    left = [(path, rows) for path, rows in todo if not path.exists()]
    with bar("browse: images", dataset.info.num_images) as progress:
        progress.advance(dataset.info.num_images - sum(len(rows) for _, rows in left))
        for path, jpeg in in_order(lambda item: (item[0], _sheet(dataset, item[1])), left, _THREADS):
            write_file(path, jpeg)
            progress.advance(each)


def _sheet(dataset: Dataset, rows: pd.DataFrame) -> bytes:
    """Thumbnails of at most `ACROSS` x `ACROSS` images, row by row, as JPEG."""
    sheet = np.zeros((ACROSS, THUMB, ACROSS, THUMB), np.uint8)
    for place, image in enumerate(resized(dataset.images(rows), THUMB)):
        sheet[place // ACROSS, :, place % ACROSS] = image
    pixels = sheet.reshape(ACROSS * THUMB, ACROSS * THUMB)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _told(dataset: Dataset) -> dict[str, Any]:
    """What the page knows of each image, as columns; texts that many share are listed once."""
    rows = dataset.rows
    pairs = zip(rows["generation"], rows["image_id"], strict=True)
    made = [made_of(text, image_id, dataset.folder) for text, image_id in pairs]
    gates = [one.get("gate", {}) for one in made]
    columns = {
        "id": rows["image_id"].tolist(),
        "split": rows["split"].tolist(),
        "seed": [None if pd.isna(seed) else str(int(seed)) for seed in rows["seed"]],
        "draw": [one.get("draw", 0) for one in made],
        "passed": [gate.get("passed") for gate in gates],
        "margin": [gate.get("margin") for gate in gates],
        "scores": [gate.get("scores") for gate in gates],
    }
    return {
        "synthetic": dataset.info.synthetic,
        "digest": dataset.info.digest,
        "thumb": THUMB,
        "across": ACROSS,
        "findings": [*dataset.findings.names, NO_FINDING],
        "columns": columns,
        **_once("labels", [dataset.findings.text(bits) for bits in rows["labels"]]),
        **_once("view", rows["view"].replace("", "unknown")),
        **_once("prompt", rows["prompt"]),
    }


def _once(name: str, values: pd.Series | list[str]) -> dict[str, Any]:
    codes, texts = pd.factorize(np.asarray(values, object))
    return {name: {"texts": texts.tolist(), "codes": codes.tolist()}}

"""Where a localiser finds findings: the patch around the highest point of each map."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.models.classifier import as_input
from cxr_core.models.localiser import load
from cxr_core.runs.progress import bar

_SHARE = 0.5
"""Of a map's highest value, which a point of the patch has at least."""


class Finder:
    """A loaded localiser."""

    def __init__(self, folder: Path) -> None:
        self._model, self.info = load(folder)

    @torch.inference_mode()
    def maps(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float32 (n, findings, points, points) for images uint8 (n, size, size)."""
        pixels = as_input(images, self.info.image_size).to(self._model.device)
        found: np.ndarray = self._model(pixels).sigmoid().cpu().numpy()
        return found

    def boxes(self, dataset: Dataset, rows: pd.DataFrame, batch_size: int) -> pd.DataFrame:
        """image_id, finding, score, x, y, w, h (fractions of the image) of each finding in each row."""
        found: list[dict[str, Any]] = []
        with bar("positions", len(rows)) as progress:
            for start in range(0, len(rows), batch_size):
                part = rows.iloc[start : start + batch_size]
                for image_id, maps in zip(part["image_id"], self.maps(dataset.images(part)), strict=True):
                    found += [
                        {"image_id": image_id, "finding": name, **peak(heat)}
                        for name, heat in zip(self.info.findings, maps, strict=True)
                    ]
                progress.advance(len(part))
        return pd.DataFrame(found, columns=["image_id", "finding", "score", "x", "y", "w", "h"])


def peak(heat: np.ndarray) -> dict[str, float]:
    """The box around the highest point of a map and what of its surroundings is at least half as high.

    `heat` is float32 (points, points); the box is in fractions of the image, `score` the highest value.
    """
    points = len(heat)
    top = float(heat.max())
    _, patches = cv2.connectedComponents((heat >= _SHARE * top).astype(np.uint8), connectivity=4)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    rows, columns = np.nonzero(patches == patches[y, x])
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    sides = {"x": x0 / points, "y": y0 / points, "w": (x1 - x0) / points, "h": (y1 - y0) / points}
    return {"score": top, **{name: float(value) for name, value in sides.items()}}

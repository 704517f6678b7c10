"""Training of the localiser that later judges where synthetic images show a finding."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from cxr_core.data.dataset import Dataset
from cxr_core.data.positions.phrases import region_words
from cxr_core.data.positions.regions import cell_of, unit_boxes
from cxr_core.models import localiser
from cxr_core.models.classifier import as_input, resized
from cxr_core.models.localiser import Localiser
from cxr_core.models.localiser_folder import STRIDE, LocaliserInfo
from cxr_core.seeds import derive_seed
from cxr_core.training.augment import NUM_DRAWS, mild, moved
from cxr_core.training.data_order import DataOrder, some, spread, stream
from cxr_core.training.judge_settings import LocaliserTrain

_MOST_IN_MEMORY = 20_000
"""Training images that are decoded once and kept; of more, each batch is decoded when it comes."""
_AT_ONCE = 256
_MOST_WEIGHT = 20.0
"""Of a point in a box, where one outside weighs 1."""


class LocaliserTask:
    """See `engine.Task`. Trains a localiser on the boxes of a Dataset's training images."""

    training_mode = False
    num_parts = 1

    def __init__(
        self, model: Localiser, dataset: Dataset, settings: LocaliserTrain, findings: tuple[str, ...], seed: int
    ) -> None:
        self.module, self.dataset, self.settings, self.seed, self.findings = model, dataset, settings, seed, findings
        self.size = settings.image_size or dataset.info.size
        train, held_out = (dataset.of_split(split) for split in ("train", "val"))
        boxed = has_box(train, findings)
        self.train, self.boxed, self.others = train, np.flatnonzero(boxed), np.flatnonzero(~boxed)
        held_out = held_out[has_box(held_out, findings)].reset_index(drop=True)
        chosen = some(len(held_out), settings.validation_images, derive_seed(seed, "validation"))
        self.held_out = held_out.iloc[chosen].reset_index(drop=True)
        self.kept = self._decoded(train) if len(train) <= _MOST_IN_MEMORY else None
        self.is_boxed = spread(settings.batch_size, settings.boxed_share if len(self.others) else 1.0)
        self._orders = [
            DataOrder(len(rows), int(places.sum()), derive_seed(seed, name))
            for name, rows, places in (
                ("boxed order", self.boxed, self.is_boxed),
                ("other order", self.others, ~self.is_boxed),
            )
        ]

    def loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """Binary cross-entropy of each point of each map, of the batch at `step`; see `targets` for what is known."""
        rows = self._batch(step)
        images = self._decoded(rows) if self.kept is None else self.kept[rows.index]
        pixels, (wanted, weights) = self._as_input(images), self._targets(rows)
        if self.settings.augment == "mild":
            draws = self._draws(step, len(rows))
            pixels, wanted = mild(pixels, draws), moved(wanted, draws)
        return self._error(module(pixels), wanted, weights)

    def examples(self, step: int) -> Sequence[str]:
        return self._batch(step)["image_id"].tolist()

    @torch.no_grad()
    def validation(self) -> dict[str, Any]:
        """The loss on held-out patients' images that have a box; None without any."""
        size, num = self.settings.batch_size, len(self.held_out)
        parts = [self.held_out.iloc[start : start + size] for start in range(0, num, size)]
        losses = [
            float(self._error(self.module(self._as_input(self._decoded(part))), *self._targets(part))) * len(part)
            for part in parts
        ]
        return {"validation_loss": sum(losses) / num if num else None}

    def preview(self, step: int) -> None:
        """A localiser makes no pictures."""

    def before_export(self) -> None:
        """Nothing is measured for the export."""

    def export(self, folder: Path, step: int) -> None:
        """Write the localiser, with what it was trained on."""
        boxed = self.train.iloc[self.boxed]
        boxes = [box for row in boxed.itertuples() for box in unit_boxes(row.boxes, self.dataset.info.size)]
        numbers = Counter(str(box["finding"]) for box in boxes)
        info = LocaliserInfo(
            image_size=self.size,
            findings=self.findings,
            prior={name: commonest_cell(boxes, name) for name in self.findings},
            dataset=self.dataset.info.digest,
            num_boxes={name: numbers[name] for name in self.findings},
            about={"steps": step, "num_images": len(boxed), "num_patients": int(boxed["patient_id"].nunique())},
        )
        localiser.save(self.module, folder, info)

    def _batch(self, step: int) -> pd.DataFrame:
        chosen = np.empty(len(self.is_boxed), int)
        kinds = zip((self.boxed, self.others), (self.is_boxed, ~self.is_boxed), self._orders, strict=True)
        for rows, places, order in kinds:
            if places.any():
                chosen[places] = rows[order.batch(step)]
        return self.train.iloc[chosen]

    def _decoded(self, rows: pd.DataFrame) -> np.ndarray:
        """uint8 (n, size, size), as the localiser sees them."""
        images = np.empty((len(rows), self.size, self.size), np.uint8)
        for start in range(0, len(rows), _AT_ONCE):
            part = rows.iloc[start : start + _AT_ONCE]
            images[start : start + len(part)] = resized(self.dataset.images(part), self.size)
        return images

    def _as_input(self, images: np.ndarray) -> torch.Tensor:
        return as_input(images, self.size).to(self.module.device)

    def _targets(self, rows: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        made = targets(rows, self.findings, self.dataset, self.size // STRIDE)
        wanted, known = (torch.from_numpy(part).to(self.module.device) for part in made)
        return wanted, known

    def _error(self, logits: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Mean over points, those in boxes weighed as much as those outside, within `_MOST_WEIGHT`."""
        inside = (wanted * known).sum((0, 2, 3))
        outside = known.expand_as(wanted).sum((0, 2, 3)) - inside
        factor = (outside / inside.clamp(min=1)).clamp(1, _MOST_WEIGHT)[None, :, None, None]
        errors = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (errors * known * (1 + (factor - 1) * wanted)).mean()

    def _draws(self, step: int, num: int) -> np.ndarray:
        seed = derive_seed(self.seed, "augment")
        return np.stack([stream(seed, step, i).uniform(-1, 1, NUM_DRAWS) for i in range(num)])


def has_box(rows: pd.DataFrame, findings: Sequence[str]) -> np.ndarray:
    """Which rows have a box of one of `findings`: bool (n,)."""
    return np.array([any(box["finding"] in findings for box in boxes) for boxes in rows["boxes"]], bool)


def targets(
    rows: pd.DataFrame, findings: Sequence[str], dataset: Dataset, points: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the maps should show, float32 (n, findings, points, points): the share of each point that a box covers; and
    whether that is known, float32 (n, findings, 1, 1): not of a finding that an image has without a box.
    """
    wanted = np.zeros((len(rows), len(findings), points, points), np.float32)
    for i, row in enumerate(rows.itertuples()):
        for box in unit_boxes(row.boxes, dataset.info.size):
            if box["finding"] in findings:
                place = wanted[i, findings.index(box["finding"])]
                np.maximum(place, covered(box, points), out=place)
    columns = [dataset.findings.names.index(name) for name in findings]
    has_label, boxed = dataset.label_matrix(rows)[:, columns] > 0, wanted.any((2, 3))
    return wanted, (~has_label | boxed).astype(np.float32)[:, :, None, None]


def covered(box: Mapping[str, Any], points: int) -> np.ndarray:
    """The share of each point of a map that a box, in fractions of the image, covers: float32 (points, points)."""
    edges = np.arange(points + 1) / points
    along = [
        np.clip(np.minimum(edges[1:], box[start] + box[extent]) - np.maximum(edges[:-1], box[start]), 0, None) * points
        for start, extent in (("y", "h"), ("x", "w"))
    ]
    return np.outer(*along).astype(np.float32)


def commonest_cell(boxes: Sequence[Mapping[str, Any]], finding: str) -> str:
    """The cell of the grid with the most boxes of a finding, in words; of equal ones the first in the alphabet."""
    cells = Counter(region_words(cell_of(box), "image") for box in boxes if box["finding"] == finding)
    return min(cells, key=lambda cell: (-cells[cell], cell))

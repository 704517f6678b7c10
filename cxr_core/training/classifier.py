"""Training of the classifier that later judges synthetic images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from cxr_core.data.dataset import Dataset
from cxr_core.models import classifier
from cxr_core.models.balance import positive_weights
from cxr_core.models.classifier import Classifier, as_input, resized
from cxr_core.models.scores import auroc
from cxr_core.seeds import derive_seed
from cxr_core.training.augment import NUM_DRAWS, mild
from cxr_core.training.data_order import DataOrder, some, stream
from cxr_core.training.judge_settings import ClassifierTrain

_MOST_IN_MEMORY = 20_000
"""Training images that are decoded once and kept; of more, each batch is decoded when it comes."""
_AT_ONCE = 256


class ClassifierTask:
    """See `engine.Task`. Trains a classifier on the training images of a Dataset."""

    training_mode = True
    num_parts = 1

    def __init__(self, model: Classifier, dataset: Dataset, settings: ClassifierTrain, seed: int) -> None:
        self.module, self.settings, self.seed = model, settings, seed
        self.train = _Split(dataset, model, dataset.of_split("train"))
        held_out = dataset.of_split("val")
        measured = some(len(held_out), settings.validation_images, derive_seed(seed, "validation"))
        self.held_out = _Split(dataset, model, held_out.iloc[measured].reset_index(drop=True))
        self.order = DataOrder(len(self.train.rows), settings.batch_size, derive_seed(seed, "order"))
        weights = positive_weights(self.train.labels.sum(axis=0), len(self.train.labels))
        self.positive_weights = weights if settings.balance else None

    def loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """Binary cross-entropy of each finding by itself, averaged over findings and the batch at `step`."""
        places = self.order.batch(step)
        pixels = self.train.pixels(places)
        if self.settings.augment == "mild":
            pixels = mild(pixels, self._draws(step))
        return self._errors(module(pixels), self.train.labels[places]).mean()

    def examples(self, step: int) -> Sequence[str]:
        return self.train.rows["image_id"].iloc[self.order.batch(step)].tolist()

    @torch.no_grad()
    def validation(self) -> dict[str, Any]:
        """Loss, AUROC of each finding and their mean on held-out patients' images.

        None where there are no images, or none with the finding, or none without it.
        """
        labels, num = self.held_out.labels, len(self.held_out.rows)
        if not num:
            return {"validation_loss": None}
        parts = [np.arange(start, min(start + _AT_ONCE, num)) for start in range(0, num, _AT_ONCE)]
        logits = torch.cat([self.module(self.held_out.pixels(part)) for part in parts])
        scores, weights = logits.double().cpu().numpy(), np.ones(num)
        areas = [float(auroc(scores[:, i], labels[:, i], weights)) for i in range(labels.shape[1])]
        known = [area for area in areas if np.isfinite(area)]
        return {
            "validation_loss": float(self._errors(logits, labels).mean()),
            "validation_auroc": float(np.mean(known)) if known else None,
            "auroc": {
                name: area if np.isfinite(area) else None
                for name, area in zip(self.module.info.findings, areas, strict=True)
            },
        }

    def preview(self, step: int) -> None:
        """A classifier makes no pictures."""

    def before_export(self) -> None:
        """Nothing is measured for the export."""

    def export(self, folder: Path, step: int) -> None:
        """Write the classifier, with what it was trained on."""
        classifier.save(self.module, folder, {**self.train.about(), "steps": step, "balance": self.settings.balance})

    def _errors(self, logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        weights = None if self.positive_weights is None else torch.from_numpy(self.positive_weights).to(logits)
        wanted = torch.from_numpy(labels).to(logits)
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")

    def _draws(self, step: int) -> np.ndarray:
        seed = derive_seed(self.seed, "augment")
        return np.stack([stream(seed, step, i).uniform(-1, 1, NUM_DRAWS) for i in range(self.settings.batch_size)])


class _Split:
    """One split: its rows, labels float32 (n, num_findings) of 0 and 1, and images, which are kept if not too many."""

    def __init__(self, dataset: Dataset, model: Classifier, rows: pd.DataFrame) -> None:
        self.dataset, self.model, self.rows = dataset, model, rows
        names = dataset.findings.names
        self.labels = dataset.label_matrix(rows)[:, [names.index(name) for name in model.info.findings]]
        self.kept = self._decoded(np.arange(len(rows))) if len(rows) <= _MOST_IN_MEMORY else None

    def pixels(self, places: np.ndarray) -> torch.Tensor:
        """float32 (n, 1, image_size, image_size) in -1..1, on the model's device."""
        images = self._decoded(places) if self.kept is None else self.kept[places]
        return as_input(images, self.model.info.image_size).to(self.model.device)

    def about(self) -> dict[str, Any]:
        """Digest of the Dataset, and how many images and patients there are: of all, and with each finding."""
        patients = self.rows["patient_id"]
        return {
            "dataset": self.dataset.info.digest,
            "num_images": len(self.rows),
            "num_patients": int(patients.nunique()),
            "findings": {
                name: {"num_images": int(has.sum()), "num_patients": int(patients[has].nunique())}
                for name, has in zip(self.model.info.findings, self.labels.T == 1, strict=True)
            },
        }

    def _decoded(self, places: np.ndarray) -> np.ndarray:
        size = self.model.info.image_size
        images = np.empty((len(places), size, size), np.uint8)
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            images[start : start + len(part)] = resized(self.dataset.images(self.rows.iloc[part]), size)
        return images

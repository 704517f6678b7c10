"""A siamese network that puts images of one patient near to each other, trained on real training patients.

After Packhaeuser et al. 2022 (doi 10.1038/s41598-022-19045-3), who told patients of ChestX-ray14 apart so; the loss is
NT-Xent (Chen et al. 2020, arXiv 2002.05709) with the two images of a patient in place of two views of an image.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.evaluation.memorisation.descriptors import described_rows
from cxr_core.evaluation.memorisation.persons import search_persons
from cxr_core.evaluation.memorisation.settings import WIDTH, Reidentification
from cxr_core.models.classifier import as_input, build
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.progress import bar
from cxr_core.runs.stage import Output
from cxr_core.seeds import derive_seed
from cxr_core.training.augment import NUM_DRAWS, mild
from cxr_core.training.data_order import DataOrder, stream

_GRID = 4
"""Cells a side that features are pooled to: where ribs and devices are belongs to a person."""
_TEMPERATURE = 0.1
_AT_ONCE = 256
_LEAST = 4
"""Training patients of several images."""


class Siamese(nn.Module):
    """Convolutions of a classifier, pooled to a coarse grid, then one linear layer: pixels to float32 (n, WIDTH)."""

    def __init__(self, settings: Reidentification, seed: int) -> None:
        super().__init__()
        classifier = build(settings.preset, settings.image_size, ("same patient",), derive_seed(seed, "weights"))
        self.layers = classifier.body[:-2]  # type: ignore[index]
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "projection"))
            self.head = nn.Linear(classifier.info.feature_width * _GRID**2, WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = F.adaptive_avg_pool2d(self.layers(pixels), _GRID).flatten(1)
        return F.normalize(self.head(found).float(), dim=1)


def patients_of_several(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Places of the images of each training patient who has several, by patient."""
    train = rows.assign(_place=np.arange(len(rows)))[rows["split"] == "train"]
    groups = {str(name): group["_place"].to_numpy() for name, group in train.groupby("patient_id")}
    return {name: places for name, places in groups.items() if len(places) > 1}


def train(dataset: Dataset, rows: pd.DataFrame, settings: Reidentification, seed: int) -> Siamese:
    """Train the network on `rows` of the Dataset, each step two images of each of `batch_size` training patients.

    Start, order, pairs and augmentation are functions of `seed`. Raises UserError where too few patients have several
    images, or naming the step where the loss is not finite.
    """
    batches = _Batches(dataset, rows, settings, seed)
    model = Siamese(settings, seed).to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    with bar("patients", settings.steps) as progress:
        for step in range(settings.steps):
            loss = _nt_xent(model(batches.pixels(step).to(model.head.weight.device)))
            if not math.isfinite(loss.item()):
                raise _wrong(f"the loss is {loss.item()} at step {step}", "lower learning_rate, or leave it out")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.advance(loss=loss.item())
    return model.eval()


class _Batches:
    """Two images of each of some training patients, changed mildly: a function of the seed and the step."""

    def __init__(self, dataset: Dataset, rows: pd.DataFrame, settings: Reidentification, seed: int) -> None:
        self.dataset, self.rows, self.size, self.seed = dataset, rows, settings.image_size, seed
        self.patients = list(patients_of_several(rows).values())
        if len(self.patients) < _LEAST:
            several = f"{len(self.patients)} training patients have several images"
            raise _wrong(f"{several}, {_LEAST} are needed to learn what a person is", "leave it out")
        num = min(settings.batch_size, len(self.patients))
        self.order = DataOrder(len(self.patients), num, derive_seed(seed, "patients"))

    def pixels(self, step: int) -> torch.Tensor:
        """float32 (2 n, 1, size, size): one image of each patient, then in the same order another one of each."""
        chosen = self.order.batch(step)
        draws = [stream(derive_seed(self.seed, "pairs"), step, i) for i in range(len(chosen))]
        pairs = [draw.choice(self.patients[i], 2, replace=False) for draw, i in zip(draws, chosen, strict=True)]
        changes = [draw.uniform(-1, 1, NUM_DRAWS) for _ in range(2) for draw in draws]
        images = self.dataset.images(self.rows.iloc[np.array(pairs).T.ravel()])
        return mild(as_input(images, self.size), np.stack(changes))


def _wrong(what: str, hint: str) -> UserError:
    return UserError(what, where="memorisation.reidentification", hint=hint)


def _nt_xent(vectors: torch.Tensor) -> torch.Tensor:
    """Of vectors (2 n, width), the first half of each pair before the second: find the other one among all others."""
    similarity = vectors @ vectors.T / _TEMPERATURE
    similarity.fill_diagonal_(-torch.inf)
    half = len(vectors) // 2
    other = torch.arange(len(vectors), device=vectors.device).roll(half)
    return F.cross_entropy(similarity, other)


@torch.inference_mode()
def embed(model: Siamese, dataset: Dataset, rows: pd.DataFrame, image_size: int) -> np.ndarray:
    """float32 (n, WIDTH) of length 1, in the order of `rows`."""
    device, parts = model.head.weight.device, [np.empty((0, WIDTH), np.float32)]
    with bar("persons", len(rows)) as progress:
        for start in range(0, len(rows), _AT_ONCE):
            images = dataset.images(rows.iloc[start : start + _AT_ONCE])
            parts.append(model(as_input(images, image_size).to(device)).cpu().numpy())
            progress.advance(len(images))
    return np.concatenate(parts)


def tell_apart(
    datasets: Mapping[str, Dataset], plan: Path, settings: Reidentification, num_train: int, seed: int, work: Path
) -> Output:
    """Train the network and look with it for each image among the training images.

    Writes vectors.npy, of the real images that are looked at, and what `search_persons` finds.
    """
    rows = {
        source: dataset.rows.set_index("image_id", drop=False).loc[described_rows(plan, source)["image_id"]]
        for source, dataset in datasets.items()
    }
    model = train(datasets["real"], rows["real"], settings, seed)
    real, synthetic = (embed(model, datasets[name], rows[name], settings.image_size) for name in ("real", "synthetic"))
    found = {"vectors": real, **search_persons(rows["real"], real, synthetic, num_train, seed)}
    for role, values in found.items():
        np.save(work / f"{role}.npy", values)
    digest = [[role, hashlib.sha256(values.tobytes()).hexdigest()] for role, values in found.items()]
    num_images = len(real) + len(synthetic)
    return Output(
        {role: work / f"{role}.npy" for role in found}, sha256_text(canonical_json(digest)), {"images": num_images}
    )

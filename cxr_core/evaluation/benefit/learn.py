"""Train one classifier of one arm and score the test images."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.evaluation.benefit.cohort import BenefitCohort
from cxr_core.evaluation.benefit.scores import write_scores
from cxr_core.evaluation.benefit.settings import PRETRAIN, Benefit, Learner
from cxr_core.models.balance import positive_weights
from cxr_core.models.classifier import Classifier, as_input, build, resized
from cxr_core.runs.progress import bar
from cxr_core.runs.stage import Output
from cxr_core.seeds import derive_seed
from cxr_core.training.augment import NUM_DRAWS, mild
from cxr_core.training.data_order import DataOrder, stream
from cxr_core.training.engine import threads
from cxr_core.training.schedule import learning_rate

_AT_ONCE = 256


def learn_arm(
    entry: Benefit,
    cohort: BenefitCohort,
    arm: str,
    seed: int,
    datasets: Mapping[str, Dataset],
    work: Path,
    *,
    num_threads: int,
    where: str,
) -> Output:
    """Train one classifier and score the test images: `scores.parquet` and `classifier.json` in `work`.

    `datasets` holds "real" and "synthetic"; `seed` is the run's and one of the entry's, joined; `where` names the work.
    Raises UserError naming `where` and the step if the loss is not finite.
    """
    chosen, test = cohort.use(arm), cohort.use("test")
    size = entry.learner.image_size or datasets["real"].info.size
    label = f"{where}: {arm}"
    with threads(num_threads):
        model = build(entry.learner.preset, size, entry.findings, derive_seed(seed, "weights"))
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        parts = [chosen]
        if arm == PRETRAIN:
            parts = [chosen[chosen["source"] == source] for source in ("synthetic", "real")]
        learner = entry.learner.model_copy(update={"steps": entry.learner.steps // len(parts)})
        for i, part in enumerate(parts):
            images, labels = _load(part, entry, datasets, size)
            loss = fit(model, images, labels, learner, derive_seed(seed, "part", i), label=label)
        scores = predict(model, _load(test, entry, datasets, size)[0])
    return write_scores(test["image_id"].tolist(), scores, entry.findings, loss, work)


def fit(model: Classifier, images: np.ndarray, labels: np.ndarray, learner: Learner, seed: int, *, label: str) -> float:
    """Train on uint8 images (n, size, size) and labels (n, findings) of 0 and 1. Returns the last losses' mean.

    Binary cross-entropy of each finding by itself, images with it weighed up as of the judge (see `positive_weights`).
    Order and augmentation are functions of `seed`. Raises UserError naming the step if a loss is not finite.
    """
    order = DataOrder(len(images), learner.batch_size, derive_seed(seed, "order"))
    optimizer = torch.optim.AdamW(model.train().parameters(), weight_decay=learner.weight_decay)
    weights = torch.from_numpy(positive_weights(labels.sum(axis=0), len(labels))).to(model.device)
    losses = []
    with bar(label, learner.steps) as progress:
        for step in range(learner.steps):
            places = order.batch(step)
            pixels = as_input(images[places], model.info.image_size).to(model.device)
            if learner.augment == "mild":
                pixels = mild(pixels, _draws(seed, step, len(places)))
            wanted = torch.from_numpy(labels[places]).to(pixels)
            error = F.binary_cross_entropy_with_logits(model(pixels), wanted, pos_weight=weights)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(learner, step)
            optimizer.zero_grad(set_to_none=True)
            error.backward()
            optimizer.step()
            losses.append(_finite(error.item(), label, step))
            progress.advance(loss=losses[-1])
    return float(np.mean(losses[-max(1, learner.steps // 10) :]))


@torch.inference_mode()
def predict(model: Classifier, images: np.ndarray) -> np.ndarray:
    """Scores in 0..1 of uint8 images (n, size, size): float32 (n, findings)."""
    model.eval()
    size = model.info.image_size
    parts = [images[i : i + _AT_ONCE] for i in range(0, len(images), _AT_ONCE)]
    return torch.cat([model(as_input(part, size).to(model.device)).sigmoid().cpu() for part in parts]).numpy()


def _draws(seed: int, step: int, num: int) -> np.ndarray:
    key = derive_seed(seed, "augment")
    return np.stack([stream(key, step, i).uniform(-1, 1, NUM_DRAWS) for i in range(num)])


def _finite(loss: float, label: str, step: int) -> float:
    if not math.isfinite(loss):
        hint = "lower learner.learning_rate; if it stops at the same step again, look at the images"
        raise UserError(f"the classifier's loss is {loss} at step {step}", where=label, hint=hint)
    return loss


def _load(
    chosen: pd.DataFrame, entry: Benefit, datasets: Mapping[str, Dataset], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, size, size), resized, and their labels float32 (n, findings)."""
    images = np.empty((len(chosen), size, size), np.uint8)
    labels = np.empty((len(chosen), len(entry.findings)), np.float32)
    for source, dataset in datasets.items():
        of_source = np.flatnonzero(chosen["source"] == source)
        rows = dataset.rows.set_index("image_id", drop=False).loc[chosen["image_id"].iloc[of_source]]
        columns = [dataset.findings.names.index(name) for name in entry.findings]
        labels[of_source] = dataset.label_matrix(rows)[:, columns]
        for i in range(0, len(rows), _AT_ONCE):
            part = slice(i, i + _AT_ONCE)
            images[of_source[part]] = resized(dataset.images(rows.iloc[part]), size)
    return images, labels

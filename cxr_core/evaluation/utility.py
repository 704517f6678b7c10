"""Utility: train one classifier on an arm's images and score the test images."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.evaluation.cohort import Cohort
from cxr_core.evaluation.metrics import Arm
from cxr_core.evaluation.settings import Utility
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Output
from cxr_core.runs.tables import read_table
from cxr_core.seeds import derive_seed


def run_arm(
    entry: Utility,
    cohort: Cohort,
    arm: Arm,
    seed: int,
    datasets: Mapping[str, Dataset],
    work: Path,
    *,
    threads: int,
    stage: str,
) -> Output:
    """Train one classifier and score the test images: `scores.parquet` and `classifier.json` in `work`.

    `datasets` holds "real" and "synthetic"; `seed` is the run's and one of the entry's, joined; `stage` names the
    stage. Raises UserError naming stage and step if the classifier's loss is not finite.
    """
    import torch

    from cxr_core.evaluation.cnn import predict, train

    torch.set_num_threads(threads)
    size = size_of(entry, datasets["real"])
    chosen, test = cohort.use(arm), cohort.use("test")
    images = np.empty((len(chosen), size, size), np.uint8)
    for source, dataset in datasets.items():
        of_source = (chosen["source"] == source).to_numpy()
        images[of_source] = load_images(dataset, chosen.loc[of_source, "image_id"], size)
    model, loss = train(
        images, chosen["label"].to_numpy(), entry, seed, label=f"stage {stage!r}: {entry.finding}, {arm}"
    )
    augment_seed = derive_seed(seed, "test images") if entry.is_leaky and entry.augment == "study" else None
    scores = predict(model, load_images(datasets["real"], test["image_id"], size), augment_seed)
    return _save(test["image_id"], scores, loss, work)


def _save(image_ids: pd.Series, scores: np.ndarray, loss: float, work: Path) -> Output:
    write_parquet(work / "scores.parquet", pa.table({"image_id": image_ids.tolist(), "score": scores}))
    write_json(work / "classifier.json", {"format": 1, "final_loss": loss})
    content = [[name, repr(score)] for name, score in zip(image_ids, scores.tolist(), strict=True)]
    return Output(
        paths={"scores": work / "scores.parquet", "classifier": work / "classifier.json"},
        digest=sha256_text(canonical_json([content, repr(loss)])),
        counts={"test_images": len(image_ids)},
    )


def read_scores(receipt: Receipt, stage_folder: Path) -> tuple[np.ndarray, float]:
    """Test scores in the cohort's order, and the final loss, of one committed classifier."""
    scores = read_table(receipt.path(stage_folder, "scores"))["score"].to_numpy()
    return scores, float(read_json(receipt.path(stage_folder, "classifier"))["final_loss"])


def size_of(entry: Utility, real: Dataset) -> int:
    """Pixels a side that the classifier sees."""
    return entry.image_size or real.info.size


def load_images(dataset: Dataset, image_ids: pd.Series, size: int) -> np.ndarray:
    """Images by id, resized: uint8 (n, size, size). Area averaging to shrink, bilinear to enlarge."""
    rows = dataset.rows.set_index("image_id", drop=False).loc[image_ids]
    how = cv2.INTER_AREA if size < dataset.info.size else cv2.INTER_LINEAR
    images = [cv2.resize(dataset.image(row), (size, size), interpolation=how) for row in rows.itertuples()]
    return np.stack(images) if images else np.empty((0, size, size), np.uint8)

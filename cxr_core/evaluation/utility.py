"""Utility: train one classifier on an arm's images, score the test images, and join all of them into a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.evaluation.cohort import ARMS, Cohort
from cxr_core.evaluation.intervals import Bootstrap, view_rule
from cxr_core.evaluation.metrics import Arm, ArmResult, Scores, SeedScores, TestSet, UtilityResult
from cxr_core.evaluation.settings import Utility
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Output
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
    scores = predict(model, load_images(datasets["real"], test["image_id"], size))
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
    scores = pq.read_table(receipt.path(stage_folder, "scores"))["score"].to_numpy()
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


def join(
    entry: Utility, cohort: Cohort, scored: Mapping[tuple[Arm, int], tuple[np.ndarray, float]], real: Dataset, seed: int
) -> UtilityResult:
    """The experiment's part of metrics.json. `scored` maps (arm, seed) to the test scores and the final loss."""
    arms: tuple[ArmResult, ...] = ()
    value = None
    test = cohort.use("test")
    if cohort.arms:
        resamples = _bootstrap(entry, cohort, seed)
        arms = tuple(_arm_result(entry, cohort, arm, scored, resamples) for arm in ARMS)
        value = _value_of_synthetic(entry, cohort, scored, resamples)
    return UtilityResult(
        **{name: getattr(entry, name) for name in ("finding", "negatives", "rule", "num_images", "augment", "epochs")},
        image_size=size_of(entry, real),
        available=dict(cohort.available),
        not_run=cohort.not_run.get("test"),
        test=None if test.empty else _test_set(test),
        arms=arms,
        value_of_synthetic=value,
    )


def _bootstrap(entry: Utility, cohort: Cohort, seed: int) -> Bootstrap:
    test = cohort.use("test")
    labels, patients = test["label"].to_numpy(), test["patient_id"].to_numpy()
    return Bootstrap(labels, patients, len(entry.seeds), derive_seed(seed, "bootstrap"))


def _arm_result(entry: Utility, cohort: Cohort, arm: Arm, scored: Mapping[Any, Any], resamples: Bootstrap) -> ArmResult:
    quarter = entry.num_images // 4
    num_real, num_synthetic = {"real": (4, 0), "mixed": (2, 2), "half": (2, 0)}[arm]
    train = cohort.use(arm)
    counts: dict[str, Any] = {
        "num_real": num_real * quarter,
        "num_synthetic": num_synthetic * quarter,
        "num_real_patients": int(train.loc[train["source"] == "real", "patient_id"].nunique()),
    }
    if arm not in cohort.arms:
        return ArmResult(arm=arm, **counts, not_run=cohort.not_run[arm])
    scores = [scored[arm, seed] for seed in entry.seeds]
    each = zip(entry.seeds, scores, strict=True)
    views = view_rule(train["view"].to_numpy(), train["label"].to_numpy(), cohort.use("test")["view"].to_numpy())
    return ArmResult(
        arm=arm,
        **counts,
        classifier=resamples.mean([values for values, _ in scores]),
        seeds=tuple(SeedScores(seed=s, final_loss=loss, **dict(resamples.one(values))) for s, (values, loss) in each),
        view_only=resamples.one(views),
    )


def _value_of_synthetic(
    entry: Utility, cohort: Cohort, scored: Mapping[Any, Any], resamples: Bootstrap
) -> Scores | None:
    if not {"mixed", "half"} <= set(cohort.arms):
        return None
    mixed, half = ([scored[arm, seed][0] for seed in entry.seeds] for arm in ("mixed", "half"))
    return resamples.difference(mixed, half)


def _test_set(test: pd.DataFrame) -> TestSet:
    counts = test.value_counts(["view", "label"])
    views = {
        str(view) or "unknown": {"with": int(counts.get((view, 1), 0)), "without": int(counts.get((view, 0), 0))}
        for view in sorted(test["view"].unique())
    }
    return TestSet(num_images=len(test), num_patients=int(test["patient_id"].nunique()), views=views)

"""Calibration: whether the judge's scores are probabilities, and for whom; measured from what `features` extracted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    import numpy as np

    from cxr_core.data.dataset import Dataset


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Nothing of its own."""
    return Estimate(0, 0, 0, 0)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """None."""
    return ()


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    raise AssertionError(f"{shard.id} is no shard of this part, which has none")


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Where faithfulness was asked for, of the same scores."""
    from cxr_core.evaluation.calibration.measure import measure_calibration
    from cxr_core.evaluation.extraction import extractor_of, read_extracted

    settings: EvaluateStage = context.settings
    trial = found["faithfulness"]
    if settings.faithfulness is None or not trial.findings:
        return {}
    known = extractor_of(context.plan_folder, "judge").findings
    columns = [known.index(one.finding) for one in trial.findings]
    sides = []
    for source in ("real", "synthetic"):
        dataset = datasets[source]
        seen = read_extracted(context.folder, list(receipts.values()), "judge", source, "scores")
        rows = dataset.rows.set_index("image_id", drop=False).loc[seen.rows["image_id"]].reset_index(drop=True)
        sides.append((rows, seen.features[:, columns]))
    weights = _weights(context.inputs["judge"], [one.finding for one in trial.findings])
    real, synthetic = sides
    vocabulary = datasets["real"].findings
    result = measure_calibration(real, synthetic, vocabulary, trial, settings.faithfulness, weights, context.seed)
    return {"calibration": result}


def _weights(judge: Path, findings: Sequence[str]) -> "np.ndarray | None":
    """What images with each finding weighed in the judge's training; None if as much as any, or if it does not say."""
    import numpy as np

    from cxr_core.models.balance import positive_weights
    from cxr_core.models.checkpoints import final_checkpoint
    from cxr_core.models.classifier_folder import read_about

    about = read_about(final_checkpoint(judge, "classifier"))
    if not about.get("balance") or not all(name in about.get("findings", {}) for name in findings):
        return None
    return positive_weights(np.array([about["findings"][name]["num_images"] for name in findings]), about["num_images"])

"""What extractors of features see: shards of images, and of these faithfulness and fidelity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset

_NO_JUDGE = "the judge, whose features these are, failed its trial on held-out real patients for every finding"


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Images that extractors see."""
    if not (settings.fidelity or settings.faithfulness):
        return Estimate(0, 0, 0, 0)
    from cxr_core.evaluation.extraction import estimate_extraction

    seen = estimate_extraction(settings, inputs["real"], inputs["synthetic"])
    return Estimate(seen.num_shards, seen.num_shards, seen.num_files, seen.num_bytes, seen.notes)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Which images each extractor sees."""
    from cxr_core.evaluation.extraction import folder_of, freeze_extraction, kinds_of

    settings: EvaluateStage = context.settings
    if "judge" in context.inputs:
        from jobs.judges import check_judge

        check_judge(context.inputs["judge"], datasets["synthetic"])
    kinds = kinds_of(settings)
    if not kinds:
        return ()
    from cxr_core.evaluation.features import open_eye

    about = [open_eye(kind, folder_of(kind, settings, context.inputs)).about for kind in kinds]
    return freeze_extraction(settings.extraction, about, datasets, context.seed, work)


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Extract the features of some images."""
    from cxr_core.evaluation.extraction import extract_shard
    from cxr_core.training.engine import threads

    settings: EvaluateStage = context.settings
    with threads(settings.threads):
        return extract_shard(shard, settings, context.inputs, datasets, context.plan_folder, work)


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Whether synthetic images show what they were asked for, and how near they are to real ones."""
    listed = list(receipts.values())
    faithfulness = _faithfulness(context, listed, datasets)
    return {"faithfulness": faithfulness, "fidelity": _fidelity(context, listed, datasets, faithfulness)}


def _fidelity(context: Context, receipts: Sequence[Receipt], datasets: Mapping[str, "Dataset"], trial: Any) -> Any:
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.extraction import extractor_of, read_extracted
    from cxr_core.evaluation.fidelity import measure

    settings: EvaluateStage = context.settings
    if settings.fidelity is None:
        return None
    kind = "judge" if settings.fidelity.features == "judge" else "model"
    real, synthetic = (read_extracted(context.folder, receipts, kind, source) for source in datasets)
    sizes = (datasets["real"].info.size, datasets["synthetic"].info.size)
    with threadpool_limits(settings.threads):
        return measure(
            real,
            synthetic,
            extractor_of(context.plan_folder, kind),
            sizes,
            datasets["real"].findings,
            settings.fidelity.resamples,
            context.seed,
            withheld=_NO_JUDGE if kind == "judge" and not trial.passes else None,
        )


def _faithfulness(context: Context, receipts: Sequence[Receipt], datasets: Mapping[str, "Dataset"]) -> Any:
    from cxr_core.evaluation.extraction import extractor_of, read_extracted
    from cxr_core.evaluation.faithfulness import judge_synthetic

    settings: EvaluateStage = context.settings
    if settings.faithfulness is None:
        return None
    real, synthetic = (read_extracted(context.folder, receipts, "judge", source, "scores") for source in datasets)
    return judge_synthetic(
        real.rows,
        real.features,
        synthetic.rows,
        synthetic.features,
        extractor_of(context.plan_folder, "judge").findings,
        datasets["real"].findings,
        settings.faithfulness,
        context.seed,
    )

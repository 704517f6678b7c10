"""What extractors of features see: shards of images, and of these faithfulness and fidelity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.purpose import purpose_of, shards_for
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    import pandas as pd

    from cxr_core.data.dataset import Dataset

NO_JUDGE = "the judge, whose features these are, failed its trial on held-out real patients for every finding"


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Images that extractors see."""
    from cxr_core.evaluation.extraction import estimate_extraction, kinds_of

    if not kinds_of(settings):
        return Estimate(0, 0, 0, 0)

    seen = estimate_extraction(settings, inputs)
    return Estimate(seen.num_shards, seen.num_shards, seen.num_files, seen.num_bytes, seen.notes)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Which images each extractor sees."""
    settings: EvaluateStage = context.settings
    real = datasets["real"]
    seen = real_seen(settings, real)
    sources = {"real": seen, "synthetic": datasets["synthetic"].rows}
    if settings.faithfulness and (first := _first_draws(datasets)):
        sources[_FIRST] = first.rows
    found = extraction_shards(context, sources, [datasets["synthetic"]], work)
    return [shard for shard in found if purpose_of(shard) != ("model", _FIRST)]


_FIRST = "first"
"""The source of a gated Dataset's first draws, of which the judge alone is asked."""


def _first_draws(datasets: Mapping[str, "Dataset"]) -> "Dataset | None":
    from cxr_core.generation.first_draws import open_first_draws

    return open_first_draws(datasets["synthetic"])


def extraction_shards(
    context: Context, sources: Mapping[str, Any], synthetic: Sequence["Dataset"], work: Path
) -> Sequence[Shard]:
    """The shards of all extractors and of the rows of each source. Raises UserError for a judge that chose images."""
    from cxr_core.evaluation.extraction import folder_of, freeze_extraction, kinds_of

    if "judge" in context.inputs:
        from jobs.judges import check_judge

        for dataset in synthetic:
            check_judge(context.inputs["judge"], dataset)
    settings: EvaluateStage = context.settings
    kinds = kinds_of(settings)
    if not kinds:
        return ()
    from cxr_core.evaluation.features import open_feature_model

    about = [open_feature_model(kind, folder_of(kind, settings, context.inputs)).about for kind in kinds]
    return freeze_extraction(settings.extraction, about, sources, work)


def real_seen(settings: EvaluateStage, real: "Dataset") -> "pd.DataFrame":
    """The real images that extractors see. Which training patients these are is the same in every stage that looks at
    this Dataset."""
    from cxr_core.evaluation.extraction import real_images
    from cxr_core.seeds import derive_seed

    # A training image that was not seen could be the one that is copied.
    num_train = real.info.num_images if settings.memorisation else settings.extraction.num_train
    return real_images(real.rows, num_train, derive_seed(0, real.info.digest), settings.looks_at)


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Extract the features of some images."""
    from cxr_core.evaluation.cache import FeatureCache
    from cxr_core.evaluation.extraction import extract_shard
    from cxr_core.training.engine import threads

    settings: EvaluateStage = context.settings
    cache = FeatureCache(context.cache_folder / "features")
    if purpose_of(shard).source == _FIRST and (first := _first_draws(datasets)):
        datasets = {**datasets, _FIRST: first}
    with threads(settings.threads):
        return extract_shard(shard, settings, context.inputs, datasets, context.plan_folder, work, cache)


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Whether synthetic images show what they were asked for, and how near they are to real ones."""
    listed = list(receipts.values())
    faithfulness, before = _faithfulness(context, listed, datasets)
    fidelity = _fidelity(context, listed, datasets, faithfulness)
    return {"faithfulness": faithfulness, "before_gate": before, "fidelity": fidelity}


def _fidelity(context: Context, receipts: Sequence[Receipt], datasets: Mapping[str, "Dataset"], trial: Any) -> Any:
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.extraction import extractor_of, read_extracted
    from cxr_core.evaluation.fidelity import measure

    settings: EvaluateStage = context.settings
    if settings.fidelity is None:
        return None
    kind = "model" if settings.features else "judge"
    real, synthetic = (read_extracted(context.folder, receipts, kind, source) for source in ("real", "synthetic"))
    sizes = (datasets["real"].info.size, datasets["synthetic"].info.size)
    with threadpool_limits(settings.threads):
        return measure(
            real,
            synthetic,
            extractor_of(context.plan_folder, kind),
            sizes,
            datasets["real"].findings,
            settings.fidelity.num_resamples,
            context.seed,
            withheld=NO_JUDGE if kind == "judge" and not trial.passes else None,
        )


def _faithfulness(context: Context, receipts: Sequence[Receipt], datasets: Mapping[str, "Dataset"]) -> tuple[Any, Any]:
    """Of the stored images, and of a gate's first draws; None where it was not asked for, or there is no gate."""
    if context.settings.faithfulness is None:
        return None, None
    from cxr_core.runs.run import StageFolder

    plan = StageFolder(context.folder).plan()
    has_first = bool(plan and shards_for(plan.shards, ["judge"], _FIRST))
    sources = {"synthetic": True, _FIRST: has_first}
    after, before = (
        judged(context, receipts, datasets["real"], name) if has else None for name, has in sources.items()
    )
    return after, before


def judged(context: Context, receipts: Sequence[Receipt], real: "Dataset", source: str) -> Any:
    """The judge's trial on real images, and what it says of the synthetic ones of a source."""
    from cxr_core.evaluation.extraction import extractor_of, read_extracted
    from cxr_core.evaluation.faithfulness import judge_synthetic

    truth, drawn = (read_extracted(context.folder, receipts, "judge", name, "scores") for name in ("real", source))
    return judge_synthetic(
        truth.rows,
        truth.features,
        drawn.rows,
        drawn.features,
        extractor_of(context.plan_folder, "judge").findings,
        real.findings,
        context.settings.faithfulness,
        context.seed,
    )
